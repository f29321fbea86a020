#include "tests/serve/json_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <regex>
#include <string_view>

namespace strata::serve::testing {
namespace {

using nlohmann::json;

const std::string& text_of(const json& value) { return value.get_ref<const std::string&>(); }

bool is_of_type(const std::string& type, const json& value) {
  if (type == "null") return value.is_null();
  if (type == "boolean") return value.is_boolean();
  if (type == "string") return value.is_string();
  if (type == "array") return value.is_array();
  if (type == "object") return value.is_object();
  if (type == "number") return value.is_number();
  // 4.0 is an integer, as JSON Schema counts.
  const bool is_integer = type == "integer" && value.is_number();
  return is_integer && std::floor(value.get<double>()) == value.get<double>();
}

bool is_of_types(const json& types, const json& value) {
  if (types.is_string()) return is_of_type(types, value);
  return std::ranges::any_of(types, [&](const json& type) { return is_of_type(type, value); });
}

bool has_all(const json& names, const json& value) {
  return !value.is_object() || std::ranges::all_of(names, [&](const json& name) {
    return value.contains(text_of(name));
  });
}

/// Words that need no more than their argument.
using Word = bool (*)(const json& argument, const json& value);
const std::map<std::string_view, Word> kWords = {
    {"type", is_of_types},
    {"required", has_all},
    {"enum", [](const json& of, const json& value) { return std::ranges::count(of, value) > 0; }},
    {"minimum",
     [](const json& of, const json& value) { return !value.is_number() || value >= of; }},
    {"maximum",
     [](const json& of, const json& value) { return !value.is_number() || value <= of; }},
    {"minItems",
     [](const json& of, const json& value) { return !value.is_array() || value.size() >= of; }},
    {"maxItems",
     [](const json& of, const json& value) { return !value.is_array() || value.size() <= of; }},
    {"minLength",  // of bytes, of which a text has as many as code points or more
     [](const json& of, const json& value) {
       return !value.is_string() || text_of(value).size() >= of;
     }},
    {"pattern",
     [](const json& of, const json& value) {
       return !value.is_string() || std::regex_search(text_of(value), std::regex(text_of(of)));
     }},
    {"description", [](const json&, const json&) { return true; }},
    {"default", [](const json&, const json&) { return true; }},
};

class SchemaCheck {
 public:
  SchemaCheck(const json& document, Unnamed unnamed) : document_(document), unnamed_(unnamed) {}

  std::string fault(const json& schema, const json& value, const std::string& where) const {
    if (schema.contains("$ref")) {
      const json* named = referred(document_, schema["$ref"]);
      return named ? fault(*named, value, where) : "there is no " + text_of(schema["$ref"]);
    }
    std::string found;
    for (const auto& [word, argument] : schema.items()) {
      if (const auto plain = kWords.find(word); plain != kWords.end()) {
        if (!plain->second(argument, value))
          found = fmt::format("{} is {}; {} is {}", where, value.dump().substr(0, 200), word,
                              argument.dump());
      } else if (word == "anyOf") {
        found = any_fault(argument, value, where);
      } else if (word == "allOf") {
        for (const json& one : argument) found += fault(one, value, where);
      } else if (word == "items") {
        found = items_fault(argument, value, where);
      } else if (word == "properties" || word == "additionalProperties") {
        found = fields_fault(schema, value, where);
      } else {
        found = "the check does not know " + word;
      }
      if (!found.empty()) break;
    }
    return found;
  }

 private:
  std::string any_fault(const json& schemas, const json& value, const std::string& where) const {
    std::string faults = where + " fits none:";
    for (const json& one : schemas) {
      const std::string found = fault(one, value, where);
      if (found.empty()) return {};
      faults += fmt::format(" ({})", found);
    }
    return faults;
  }

  std::string items_fault(const json& schema, const json& value, const std::string& where) const {
    std::string found;
    for (size_t i = 0; value.is_array() && i < value.size() && found.empty(); ++i)
      found = fault(schema, value[i], fmt::format("{}[{}]", where, i));
    return found;
  }

  std::string fields_fault(const json& schema, const json& value, const std::string& where) const {
    if (!value.is_object()) return {};
    const json named = schema.value("properties", json::object());
    const json further = schema.value("additionalProperties", json(unnamed_ == Unnamed::kAnything));
    for (const auto& [name, field] : value.items()) {
      const std::string place = where + "." + name;
      const json& of = named.contains(name) ? named[name] : further;
      if (of == false) return place + " is not described";
      if (of == true) continue;
      if (std::string found = fault(of, field, place); !found.empty()) return found;
    }
    return {};
  }

  const json& document_;
  const Unnamed unnamed_;
};

}  // namespace

const json* referred(const json& document, const std::string& reference) {
  if (!reference.starts_with("#/")) return nullptr;
  const json::json_pointer place(reference.substr(1));
  return document.contains(place) ? &document[place] : nullptr;
}

std::string schema_fault(const json& document, const json& schema, const json& value,
                         Unnamed unnamed) {
  return SchemaCheck(document, unnamed).fault(schema, value, "value");
}

}  // namespace strata::serve::testing
