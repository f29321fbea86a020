// tools/serve/json_body.h - a request's body as JSON, read without trusting it: bounded before it
// is a tree, and every field taken with its type, its range and its name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace strata::serve {

inline constexpr uint64_t kBodyBytesMax = uint64_t{64} << 20;  // of a prompt of ten million tokens
inline constexpr int kBodyDepthMax = 64;                       // what walks a tree is recursive
// An object is a list that is searched for every key: these bound the square of it.
inline constexpr uint64_t kKeysOfObjectMax = 1024;
inline constexpr uint64_t kKeysMax = uint64_t{1} << 17;
// A tree takes far more than its text. This is a list of so many tokens, or a 256th of it in texts,
// arrays and objects.
inline constexpr uint64_t kUnitsMax = uint64_t{1} << 24;

/// What a body and the JSON texts inside of it may still hold, all together.
struct JsonBudget {
  uint64_t keys_left = kKeysMax;
  uint64_t units_left = kUnitsMax;
};

/// An object, of a body or of JSON text inside of one, whose keys and values are taken from
/// `budget`. Errors: kUsage (no JSON, no object, too large or deep, too many keys or values, a key
/// that comes twice), kBadText (not UTF-8).
nlohmann::ordered_json parse_object(std::string_view text, JsonBudget& budget);

/// What a value is, in few words, for messages: `"hot"`, `7`, `an array`.
std::string shown(const nlohmann::ordered_json& value);

/// Reads the fields of one object of a body. A field that is null counts as absent. Errors of every
/// function: kUsage, whose where() is the field's path ("messages[2].role").
/// Owns nothing: the object outlives it.
class FieldReader {
 public:
  /// `path` of the object: empty = the body itself. Errors: where it is no object.
  FieldReader(const nlohmann::ordered_json& object, std::string path);

  const nlohmann::ordered_json* find(std::string_view name) const;  // null = absent
  std::optional<bool> flag(std::string_view name) const;
  std::optional<double> number(std::string_view name, double least, double most) const;
  std::optional<int64_t> integer(std::string_view name, int64_t least, int64_t most) const;
  std::optional<std::string> text(std::string_view name) const;
  const nlohmann::ordered_json* array(std::string_view name) const;   // null = absent
  const nlohmann::ordered_json* object(std::string_view name) const;  // null = absent
  std::string required_text(std::string_view name) const;

  std::string path_of(std::string_view name) const;
  /// "NAME is FOUND; wanted WANTED".
  [[noreturn]] void refuse(std::string_view name, std::string_view wanted) const;

 private:
  const nlohmann::ordered_json* object_;
  std::string path_;
};

/// Refuses the field at `path`, whose error's message is `problem`.
[[noreturn]] void refuse_field(const std::string& path, const std::string& problem,
                               const std::string& remedy);

}  // namespace strata::serve
