#include "tools/serve/json_body.h"

#include <cmath>
#include <unordered_set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/error.h"
#include "engine/text/utf8.h"

namespace strata::serve {
namespace {

using nlohmann::ordered_json;

constexpr size_t kShownBytes = 40;
constexpr uint64_t kUnitsOfScalar = 1, kUnitsOfOther = 256;

[[noreturn]] void refuse_body(const std::string& problem, const std::string& remedy) {
  throw Error(ErrorCode::kUsage, problem, "", remedy);
}

/// Looks through a text before a tree is made of it, and throws as soon as a bound is passed.
/// Why not while it is made: the library's parser with a callback looks at all elements of a list
/// again where one of them ends.
class BoundCheck final : public nlohmann::json_sax<ordered_json> {
 public:
  explicit BoundCheck(JsonBudget& budget) : budget_(budget) {}

  bool null() override { return take_units(kUnitsOfScalar); }
  bool boolean(bool) override { return take_units(kUnitsOfScalar); }
  bool number_integer(int64_t) override { return take_units(kUnitsOfScalar); }
  bool number_unsigned(uint64_t) override { return take_units(kUnitsOfScalar); }
  bool number_float(double, const std::string&) override { return take_units(kUnitsOfScalar); }
  bool string(std::string&) override { return take_units(kUnitsOfOther); }
  bool binary(ordered_json::binary_t&) override { return take_units(kUnitsOfOther); }
  bool start_object(size_t) override {
    keys_.emplace_back();
    return open();
  }
  bool key(std::string& name) override {
    add_key(name);
    return true;
  }
  bool end_object() override {
    keys_.pop_back();
    return close();
  }
  bool start_array(size_t) override { return open(); }
  bool end_array() override { return close(); }
  bool parse_error(size_t byte, const std::string&, const ordered_json::exception& error) override {
    constexpr int kNumberOutOfRange = 406;  // of the library's errors
    if (error.id == kNumberOutOfRange)
      refuse_body("the body has a number beyond the range of a double", "Send a smaller number.");
    refuse_body(fmt::format("the body is no JSON at byte {}", byte), "Send a JSON object.");
  }

 private:
  bool open() {
    if (depth_ >= kBodyDepthMax)
      refuse_body(fmt::format("the body nests deeper than {} levels", kBodyDepthMax),
                  "Send flatter JSON.");
    ++depth_;
    return take_units(kUnitsOfOther);
  }

  bool close() {
    --depth_;
    return true;
  }

  bool take_units(uint64_t n) {
    if (budget_.units_left < n)
      refuse_body(fmt::format("the body has more values than {} numbers or {} texts, arrays and "
                              "objects",
                              kUnitsMax, kUnitsMax / kUnitsOfOther),
                  "Send fewer values.");
    budget_.units_left -= n;
    return true;
  }

  void add_key(const std::string& key) {
    if (budget_.keys_left == 0 || keys_.back().size() >= kKeysOfObjectMax)
      refuse_body(fmt::format("the body has more keys than {} in an object or {} in all",
                              kKeysOfObjectMax, kKeysMax),
                  "Send fewer keys.");
    --budget_.keys_left;
    if (!keys_.back().insert(key).second)
      throw Error(ErrorCode::kUsage, "the key " + shown(key) + " comes twice in one object", key,
                  "Give each key once.");
  }

  int depth_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects that are open
  JsonBudget& budget_;
};

}  // namespace

ordered_json parse_object(std::string_view body, JsonBudget& budget) {
  if (body.size() > kBodyBytesMax)
    refuse_body(fmt::format("the body has {} bytes; wanted at most {}", body.size(), kBodyBytesMax),
                "Send less text.");
  if (const uint64_t fault = engine::utf8_fault(body); fault != body.size())
    throw Error(ErrorCode::kBadText, fmt::format("the body is not UTF-8 at byte {}", fault), "",
                "Send JSON in UTF-8.");
  BoundCheck check(budget);
  (void)ordered_json::sax_parse(body, &check);
  ordered_json json = ordered_json::parse(body);
  if (!json.is_object())
    refuse_body("the body is " + shown(json) + "; wanted an object", "Send a JSON object.");
  return json;
}

std::string shown(const ordered_json& value) {
  if (value.is_array()) return "an array";
  if (value.is_object()) return "an object";
  if (!value.is_string()) return value.dump();
  const auto& text = value.get_ref<const std::string&>();
  std::string cut = text.substr(0, kShownBytes);
  cut.resize(engine::utf8_fault(cut));
  return ordered_json(cut).dump() + (cut.size() < text.size() ? "..." : "");
}

void refuse_field(const std::string& path, const std::string& problem, const std::string& remedy) {
  throw Error(ErrorCode::kUsage, problem, path, remedy);
}

FieldReader::FieldReader(const ordered_json& object, std::string path)
    : object_(&object), path_(std::move(path)) {
  if (!object.is_object())
    refuse_field(path_, path_ + " is " + shown(object) + "; wanted an object",
                 "Give " + path_ + " an object.");
}

const ordered_json* FieldReader::find(std::string_view name) const {
  const auto found = object_->find(std::string(name));
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

std::string FieldReader::path_of(std::string_view name) const {
  return path_.empty() ? std::string(name) : path_ + "." + std::string(name);
}

void FieldReader::refuse(std::string_view name, std::string_view wanted) const {
  const std::string path = path_of(name);
  const ordered_json* value = find(name);
  refuse_field(path,
               fmt::format("{} is {}; wanted {}", path, value ? shown(*value) : "missing", wanted),
               fmt::format("Give {} {}.", path, wanted));
}

std::optional<bool> FieldReader::flag(std::string_view name) const {
  const ordered_json* value = find(name);
  if (!value) return std::nullopt;
  if (!value->is_boolean()) refuse(name, "true or false");
  return value->get<bool>();
}

std::optional<double> FieldReader::number(std::string_view name, double least, double most) const {
  const ordered_json* value = find(name);
  if (!value) return std::nullopt;
  const auto wanted = [&] { return fmt::format("a number from {} to {}", least, most); };
  if (!value->is_number()) refuse(name, wanted());
  const auto number = value->get<double>();
  if (!(number >= least && number <= most)) refuse(name, wanted());
  return number;
}

std::optional<int64_t> FieldReader::integer(std::string_view name, int64_t least,
                                            int64_t most) const {
  const ordered_json* value = find(name);
  if (!value) return std::nullopt;
  const auto wanted = [&] { return fmt::format("an integer from {} to {}", least, most); };
  if (!value->is_number()) refuse(name, wanted());
  // Some clients write integers as 5.0. Beyond 2^53 a double no longer tells which one is meant.
  constexpr double kExactMax = 9007199254740992.0;
  if (value->is_number_float()) {
    const auto real = value->get<double>();
    if (std::floor(real) != real || std::abs(real) > kExactMax) refuse(name, wanted());
  } else if (value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX) {
    refuse(name, wanted());
  }
  const auto integer = value->get<int64_t>();
  if (integer < least || integer > most) refuse(name, wanted());
  return integer;
}

std::optional<std::string> FieldReader::text(std::string_view name) const {
  const ordered_json* value = find(name);
  if (!value) return std::nullopt;
  if (!value->is_string()) refuse(name, "a string");
  return value->get<std::string>();
}

const ordered_json* FieldReader::array(std::string_view name) const {
  const ordered_json* value = find(name);
  if (value && !value->is_array()) refuse(name, "an array");
  return value;
}

const ordered_json* FieldReader::object(std::string_view name) const {
  const ordered_json* value = find(name);
  if (value && !value->is_object()) refuse(name, "an object");
  return value;
}

std::string FieldReader::required_text(std::string_view name) const {
  auto value = text(name);
  if (!value || value->empty()) refuse(name, "a string that is not empty");
  return *std::move(value);
}

}  // namespace strata::serve
