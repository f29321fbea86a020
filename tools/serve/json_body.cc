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

/// What the parser tells while it builds the tree; throws as soon as a bound is passed.
class BoundCheck {
 public:
  explicit BoundCheck(JsonBudget& budget) : budget_(budget) {}

  bool operator()(int depth, ordered_json::parse_event_t event, const ordered_json& value) {
    using Event = ordered_json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      if (depth >= kBodyDepthMax)
        refuse_body(fmt::format("the body nests deeper than {} levels", kBodyDepthMax),
                    "Send flatter JSON.");
      take_units(kUnitsOfOther);
      if (event == Event::object_start) keys_.emplace_back();
    } else if (event == Event::object_end) {
      keys_.pop_back();
    } else if (event == Event::key) {
      add_key(value.get_ref<const std::string&>());
    } else if (event == Event::value) {
      take_units(value.is_string() ? kUnitsOfOther : kUnitsOfScalar);
    }
    return true;
  }

 private:
  void take_units(uint64_t n) {
    if (budget_.units_left < n)
      refuse_body(fmt::format("the body has more values than {} numbers or {} texts, arrays and "
                              "objects",
                              kUnitsMax, kUnitsMax / kUnitsOfOther),
                  "Send fewer values.");
    budget_.units_left -= n;
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
  ordered_json json;
  try {
    json =
        ordered_json::parse(body.begin(), body.end(),
                            [&check](int depth, ordered_json::parse_event_t event,
                                     ordered_json& value) { return check(depth, event, value); });
  } catch (const ordered_json::parse_error& error) {
    refuse_body(fmt::format("the body is no JSON at byte {}", error.byte), "Send a JSON object.");
  } catch (const ordered_json::exception&) {
    refuse_body("the body has a number beyond the range of a double", "Send a smaller number.");
  }
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
