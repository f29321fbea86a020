// engine/template/value.h - the values of the template language.
// Who owns what: texts are reference-counted leaves; everything that can hold other values is a
// Cell that belongs to the Runtime of one rendering and dies with it, so that cycles and deep nests
// cost neither leaks nor recursive destructors.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "engine/template/marked_text.h"

namespace strata::engine::jinja {

using Text = std::shared_ptr<const MarkedText>;

/// What a missing name, key or element gives: prints as nothing and iterates over nothing; most
/// other uses are errors.
struct Undefined {
  Text name;  // what was looked up, for the error; may be null
};
struct None {};

struct Cell {
  Cell() = default;
  Cell(const Cell&) = delete;
  Cell& operator=(const Cell&) = delete;
  virtual ~Cell() = default;
};

struct Sequence;
struct Mapping;
struct Object;

using Value =
    std::variant<Undefined, None, bool, int64_t, double, Text, Sequence*, Mapping*, Object*>;

/// What a dict's keys(), values() and items() give cannot be indexed. kGenerator is what lazy
/// filters give: it counts as true even when empty, and a walk over it uses it up.
enum class SequenceKind : uint8_t { kList, kTuple, kKeys, kValues, kItems, kGenerator };

struct Sequence final : Cell {
  SequenceKind kind = SequenceKind::kList;
  std::vector<Value> items;
};

/// A dict: insertion order, keys of any hashable kind, looked up one after the other (the Runtime
/// charges for that).
struct Mapping final : Cell {
  std::vector<std::pair<Value, Value>> items;
};

enum class ObjectKind : uint8_t {
  kRange,
  kNamespace,
  kLoop,
  kMacro,
  kFunction,
  kMethod,
};

inline constexpr int64_t kMaxRangeBound = int64_t{1} << 61;

struct Object : Cell {
  explicit Object(ObjectKind object_kind) : kind(object_kind) {}
  const ObjectKind kind;
};

/// Its bounds and step stay below kMaxRangeBound, so that sums and products of them do not wrap.
struct Range final : Object {
  Range(int64_t first, int64_t end, int64_t step_by, uint64_t n)
      : Object(ObjectKind::kRange), start(first), stop(end), step(step_by), length(n) {}
  int64_t at(uint64_t index) const { return start + static_cast<int64_t>(index) * step; }
  int64_t start, stop, step;
  uint64_t length;
};

struct Namespace final : Object {
  Namespace() : Object(ObjectKind::kNamespace) {}
  std::vector<std::pair<MarkedText, Value>> fields;
};

template <class T>
bool is(const Value& value) {
  return std::holds_alternative<T>(value);
}
template <class T>
T* as_cell(const Value& value) {
  T* const* cell = std::get_if<T*>(&value);
  return cell ? *cell : nullptr;
}
/// The object of that kind, or null.
template <class T>
T* as_object(const Value& value, ObjectKind kind) {
  Object* object = as_cell<Object>(value);
  return object && object->kind == kind ? static_cast<T*>(object) : nullptr;
}
inline const MarkedText* as_text(const Value& value) {
  const Text* text = std::get_if<Text>(&value);
  return text ? text->get() : nullptr;
}
inline bool is_list_or_tuple(const Sequence* sequence) {
  return sequence &&
         (sequence->kind == SequenceKind::kList || sequence->kind == SequenceKind::kTuple);
}
inline const Sequence* as_sequence(const Value& value, SequenceKind kind) {
  const Sequence* sequence = as_cell<Sequence>(value);
  return sequence && sequence->kind == kind ? sequence : nullptr;
}

/// The language's name of a value's type, as its error messages say it: "str", "int", "dict".
std::string_view type_name(const Value& value);
std::string_view type_name(ObjectKind kind);
std::string_view type_name(SequenceKind kind);
/// Whether `if` takes the branch.
bool is_true(const Value& value);

/// An integer or a real; true and false count as 1 and 0.
struct Number {
  bool is_real = false;
  int64_t integer = 0;
  double real = 0;  // always set
};
bool as_number(const Value& value, Number* out);

}  // namespace strata::engine::jinja
