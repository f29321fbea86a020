// tools/cli/json_place.h - a value of a JSON file that is read strictly, and its place.
// Why strictly: these files may be edited by hand, and a key that is misspelt or a number that is
// none must not pass as a default.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

namespace strata::cli {

/// The file as messages name it, and what to do about a bad one.
struct JsonSource {
  std::string path, remedy;
};

/// Errors of all that reads: kBadFile with wanted, the place ("disk.reads[3]") and found. The value
/// and the source are borrowed.
class JsonPlace {
 public:
  JsonPlace(const nlohmann::json& value, std::string name, const JsonSource& source)
      : value_(value), name_(std::move(name)), source_(source) {}

  [[noreturn]] void refuse(const std::string& wanted) const;

  /// An object of these keys and of no other but those that may be missing.
  void expect_keys(std::initializer_list<const char*> keys,
                   std::initializer_list<const char*> optional = {}) const;
  bool is_object() const;
  bool has(const char* key) const;
  JsonPlace at(const char* key) const;
  /// Of a list of at most 4096.
  void each(const std::function<void(const JsonPlace&)>& read) const;
  /// Of an object of at most 4096 keys.
  void each_key(const std::function<void(const std::string&, const JsonPlace&)>& read) const;

  double rate() const;          // finite, above 0
  double share() const;         // in (0, 1]
  double microseconds() const;  // finite, at least 0
  double milliseconds() const { return microseconds(); }
  uint64_t count(uint64_t max, uint64_t min = 1) const;
  std::string text() const;
  bool flag() const;

 private:
  std::string found_text() const;
  double number() const;
  const nlohmann::json& value_;
  std::string name_;
  const JsonSource& source_;
};

}  // namespace strata::cli
