#include "tools/serve/tagged_call.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "tools/serve/json_body.h"

namespace strata::serve {
namespace {

using nlohmann::ordered_json;
using State = TaggedCall::State;

constexpr std::string_view kFunction = "<function=", kFunctionEnd = "</function>";
constexpr std::string_view kParameter = "<parameter=", kParameterEnd = "</parameter>";
constexpr size_t kTagBytesMax = 256;

/// The name in a tag that begins at `at` with `begin`; `at` comes to stand behind the tag.
State read_name(std::string_view text, std::string_view begin, size_t& at, std::string& name) {
  const std::string_view rest = text.substr(at + begin.size());
  const size_t end = rest.find_first_of("><\n");
  if (end == std::string_view::npos)
    return rest.size() > kTagBytesMax ? State::kBroken : State::kOpen;
  if (rest[end] != '>' || end == 0 || end > kTagBytesMax) return State::kBroken;
  name = rest.substr(0, end);
  at += begin.size() + end + 1;
  return State::kWhole;
}

/// The schema of a parameter; null = nothing is known of it.
const ordered_json* schema_of(const ordered_json& tools, const std::string& name,
                              const std::string& key) {
  for (const ordered_json& tool : tools) {
    if (tool["function"]["name"] != name) continue;
    const ordered_json& parameters = tool["function"]["parameters"];
    const auto properties = parameters.find("properties");
    if (properties == parameters.end() || !properties->is_object()) return nullptr;
    const auto found = properties->find(key);
    return found == properties->end() ? nullptr : &*found;
  }
  return nullptr;
}

/// The kinds of values that a schema takes, as far as it says.
struct Kinds {
  bool text = false, boolean = false, null = false, other = false;
};

void add_type(const ordered_json& type, Kinds& kinds) {
  bool& kind = type == "string"    ? kinds.text
               : type == "boolean" ? kinds.boolean
               : type == "null"    ? kinds.null
                                   : kinds.other;
  kind = true;
}

/// Its depth is bounded where requests are parsed.
void add_kinds(const ordered_json& schema, Kinds& kinds) {
  const auto list = [&](const char* key) -> const ordered_json* {
    const auto found = schema.is_object() ? schema.find(key) : schema.end();
    return found == schema.end() || !found->is_array() ? nullptr : &*found;
  };
  if (const ordered_json* types = list("type")) {
    for (const ordered_json& type : *types) add_type(type, kinds);
  } else if (schema.is_object() && schema.contains("type")) {
    add_type(schema["type"], kinds);
  } else if (const ordered_json* values = list("enum")) {
    for (const ordered_json& value : *values) add_type(value.type_name(), kinds);
  } else if (const ordered_json* any = list("anyOf")) {
    for (const ordered_json& one : *any) add_kinds(one, kinds);
  } else if (const ordered_json* one_of = list("oneOf")) {
    for (const ordered_json& one : *one_of) add_kinds(one, kinds);
  } else {
    kinds.other = true;
  }
}

std::optional<ordered_json> json_value(const std::string& text, JsonBudget& budget) {
  try {
    ordered_json object = parse_object("{\"value\":" + text + "}", budget);
    if (object.size() == 1) return std::move(object["value"]);
  } catch (const Error&) {  // it is a text
  }
  return std::nullopt;
}

/// Models that think in Python write its words, too. `schema`: null = nothing is known.
ordered_json value_of(const std::string& text, const ordered_json* schema, JsonBudget& budget) {
  Kinds kinds;
  if (schema) add_kinds(*schema, kinds);
  const bool is_null = text == "null" || text == "None";
  if (is_null && (kinds.null || !kinds.text)) return nullptr;
  if (kinds.text && !kinds.boolean && !kinds.other) return text;
  if (kinds.boolean && (text == "True" || text == "False")) return text == "True";
  auto value = json_value(text, budget);
  return value ? *std::move(value) : ordered_json(text);
}

}  // namespace

State TaggedCall::look(std::string_view text, size_t& at) {
  for (;;) {
    const State state = stage_ == Stage::kValue ? look_at_value(text, at) : look_at_tag(text, at);
    const bool goes_on = state == State::kWhole && stage_ != Stage::kFunction;
    if (!goes_on) return state;
  }
}

/// Leaves the stage at kFunction where the call is whole.
State TaggedCall::look_at_tag(std::string_view text, size_t& at) {
  at = std::min(text.find_first_not_of(" \n\r\t", at), text.size());
  const std::string_view rest = text.substr(at);
  const bool is_first = stage_ == Stage::kFunction;
  const std::string_view begin = is_first ? kFunction : kParameter;
  if (rest.starts_with(begin)) {
    const State state = read_name(text, begin, at, is_first ? name_ : key_);
    if (state != State::kWhole) return state;
    stage_ = is_first ? Stage::kTag : Stage::kValue;
    value_begin_ = at;
    return state;
  }
  if (!is_first && rest.starts_with(kFunctionEnd)) {
    at += kFunctionEnd.size();
    stage_ = Stage::kFunction;
    return State::kWhole;
  }
  const bool may_come = begin.starts_with(rest) || (!is_first && kFunctionEnd.starts_with(rest));
  return may_come ? State::kOpen : State::kBroken;
}

State TaggedCall::look_at_value(std::string_view text, size_t& at) {
  const size_t end = text.find(kParameterEnd, at);
  if (end == std::string_view::npos) {
    const size_t n_kept = std::min(kParameterEnd.size() - 1, text.size() - at);
    at = text.size() - n_kept;
    return State::kOpen;
  }
  std::string_view value = text.substr(value_begin_, end - value_begin_);
  if (value.starts_with('\n')) value.remove_prefix(1);  // which the template puts around it
  if (value.ends_with('\n')) value.remove_suffix(1);
  parameters_.emplace_back(key_, value);
  at = end + kParameterEnd.size();
  stage_ = Stage::kTag;
  return State::kWhole;
}

std::string TaggedCall::arguments(const ordered_json& tools) const {
  ordered_json object = ordered_json::object();
  JsonBudget budget;
  for (const auto& [key, text] : parameters_)
    object[key] = value_of(text, schema_of(tools, name_, key), budget);
  return object.dump();
}

}  // namespace strata::serve
