#include "tools/cli/json_place.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace strata::cli {
namespace {

using nlohmann::json;

constexpr size_t kListMax = 4096;
constexpr size_t kShownMax = 60;  // letters of what was found

}  // namespace

void JsonPlace::refuse(const std::string& wanted) const {
  std::string found = found_text();
  if (found.size() > kShownMax) found = found.substr(0, kShownMax) + "...";
  throw Error(ErrorCode::kBadFile, fmt::format("wanted {} as {}, found {}", wanted, name_, found),
              source_.path, source_.remedy);
}

void JsonPlace::expect_keys(std::initializer_list<const char*> keys,
                            std::initializer_list<const char*> optional) const {
  if (!value_.is_object()) refuse("an object");
  for (const char* key : keys)
    if (!value_.contains(key)) refuse(fmt::format("an object with {}", key));
  const auto is_in = [](const auto& list, const std::string& key) {
    return std::ranges::find(list, key) != list.end();
  };
  for (const auto& [key, unused] : value_.items())
    if (!is_in(keys, key) && !is_in(optional, key))
      refuse(fmt::format("an object without '{}'", key.substr(0, kShownMax)));
}

bool JsonPlace::is_object() const { return value_.is_object(); }

bool JsonPlace::has(const char* key) const { return value_.contains(key); }

JsonPlace JsonPlace::at(const char* key) const {
  return {value_.at(key), name_.empty() ? key : fmt::format("{}.{}", name_, key), source_};
}

void JsonPlace::each(const std::function<void(const JsonPlace&)>& read) const {
  if (!value_.is_array() || value_.size() > kListMax)
    refuse(fmt::format("a list of at most {}", kListMax));
  for (size_t i = 0; i < value_.size(); ++i)
    read(JsonPlace(value_[i], fmt::format("{}[{}]", name_, i), source_));
}

void JsonPlace::each_key(
    const std::function<void(const std::string&, const JsonPlace&)>& read) const {
  if (!value_.is_object() || value_.size() > kListMax)
    refuse(fmt::format("an object of at most {} keys", kListMax));
  for (const auto& [key, value] : value_.items())
    read(key, JsonPlace(value, fmt::format("{}.{}", name_, key.substr(0, kShownMax)), source_));
}

double JsonPlace::rate() const {
  const double found = number();
  if (!(found > 0)) refuse("a finite number above 0");
  return found;
}

double JsonPlace::share() const {
  const double found = number();
  if (!(found > 0 && found <= 1)) refuse("a number above 0 and at most 1");
  return found;
}

double JsonPlace::microseconds() const {
  const double found = number();
  if (!(found >= 0)) refuse("a finite number of at least 0");
  return found;
}

uint64_t JsonPlace::count(uint64_t max, uint64_t min) const {
  if (!value_.is_number_unsigned() || value_.get<uint64_t>() < min || value_.get<uint64_t>() > max)
    refuse(fmt::format("a whole number from {} to {}", min, max));
  return value_.get<uint64_t>();
}

std::string JsonPlace::text() const {
  if (!value_.is_string()) refuse("a text");
  return value_.get<std::string>();
}

bool JsonPlace::flag() const {
  if (!value_.is_boolean()) refuse("true or false");
  return value_.get<bool>();
}

/// Lists and objects by their kind alone: dump() recurses, and a file may nest ever so deep.
std::string JsonPlace::found_text() const {
  if (value_.is_array()) return "a list";
  if (value_.is_object()) return "an object";
  return value_.dump(-1, ' ', true, json::error_handler_t::replace);
}

double JsonPlace::number() const {
  const double found = value_.is_number() ? value_.get<double>() : NAN;
  if (!std::isfinite(found)) refuse("a finite number");
  return found;
}

}  // namespace strata::cli
