// engine/template/access.h - reaching into values: attributes, items, slices,
// and walking over them.
#pragma once

#include <cstdint>
#include <optional>

#include "engine/template/runtime.h"

namespace strata::engine::jinja {

/// The value under `key`, or null. Errors: kTemplate where a container is asked for as key.
Value* find_key(Runtime& rt, Mapping& mapping, const Value& key);
void set_key(Runtime& rt, Mapping& mapping, const Value& key, const Value& value);

/// `value.name`: a method or field, then an item of that name; undefined where there is neither.
/// Errors: kTemplate where `value` itself is undefined.
Value get_attribute(Runtime& rt, const Value& value, const Text& name);
/// `value[key]`: an item, then a method or field of that name; undefined where there is neither.
Value get_item(Runtime& rt, const Value& value, const Value& key);
/// `value[start:stop:step]`; each part may be none. Errors: kTemplate.
Value get_slice(Runtime& rt, const Value& value, const Value& start, const Value& stop,
                const Value& step);
/// Follows "a.b.0" from a value, as the attribute= of filters does; a part of digits is an index.
/// `fallback`, where not null, stands for whatever is missing on the way.
Value get_path(Runtime& rt, const Value& value, const Value& path, const Value* fallback = nullptr);

/// How many items a value has; nothing where it has no length.
std::optional<uint64_t> length_of(Runtime& rt, const Value& value);

/// Walks a value's items: elements, the keys of a dict, the code points of a text, nothing for
/// undefined. A list that grows while it is walked is walked to its new end;
/// a generator is used up.
class Cursor {
 public:
  /// Errors: kTemplate where the value has no items to walk.
  Cursor(Runtime& rt, const Value& source);
  /// False at the end.
  bool next(Value* out);

 private:
  Runtime* rt_;
  Value source_;
  size_t at_ = 0;
};
/// Whether a Cursor accepts the value.
bool is_iterable(const Value& value);
std::vector<Value> collect_items(Runtime& rt, const Value& source);

}  // namespace strata::engine::jinja
