#include "engine/grammar/json_grammar.h"

#include <algorithm>
#include <array>
#include <map>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace strata::engine {
namespace {

using nlohmann::ordered_json;
using Kind = GrammarNode::Kind;

constexpr uint32_t kNoHeight = UINT32_MAX;
constexpr uint32_t kSchemaDepthMax = 64;
// They keep compilation, whose look-ups are linear, to milliseconds.
constexpr size_t kSchemaValuesMax = 4096;
constexpr size_t kSchemaTextMax = 256u << 10;  // bytes of names and strings

constexpr auto kDescribing =
    std::to_array<std::string_view>({"title", "description", "default", "examples", "$schema",
                                     "$id", "$comment", "deprecated", "$defs", "definitions"});

[[noreturn]] void refuse(const std::string& where, const std::string& problem) {
  throw Error(ErrorCode::kUsage, fmt::format("the schema's {} {}", where, problem), where,
              "Use the keywords that docs/json-schemas.md has.");
}

GrammarNode node_of(Kind kind) {
  GrammarNode node;
  node.kind = kind;
  return node;
}

class Compiler {
 public:
  explicit Compiler(const ordered_json& schema) : schema_(schema), resource_{&schema, "#"} {}

  JsonGrammar compile() {
    const uint32_t top = value(schema_, "#", 0);
    GrammarNode root = node_of(Kind::kRoot);
    root.nodes = {top};
    grammar_.root = add(std::move(root));
    check_choices();
    find_heights();
    return std::move(grammar_);
  }

 private:
  uint32_t add(GrammarNode node) {
    if (grammar_.nodes.size() >= kGrammarNodesMax)
      refuse("parts", fmt::format("are more than {}", kGrammarNodesMax));
    grammar_.nodes.push_back(std::move(node));
    return static_cast<uint32_t>(grammar_.nodes.size() - 1);
  }

  uint32_t literal(std::string text) {
    GrammarNode node = node_of(Kind::kLiteral);
    node.text = std::move(text);
    return add(std::move(node));
  }

  uint32_t any_of(std::vector<uint32_t> options) {
    if (options.size() == 1) return options.front();
    GrammarNode node = node_of(Kind::kAnyOf);
    node.nodes = std::move(options);
    return add(std::move(node));
  }

  /// The node of any value at all, made once.
  uint32_t any_value() {
    if (any_value_ != 0) return any_value_;
    any_value_ = add(node_of(Kind::kAnyOf));
    GrammarNode array = node_of(Kind::kArray);
    array.nodes = {any_value_};
    std::vector<uint32_t> options = {map_of(any_value_), add(std::move(array)), any_string(),
                                     add(node_of(Kind::kNumber))};
    for (const char* const text : {"true", "false", "null"}) options.push_back(literal(text));
    grammar_.nodes[any_value_].nodes = std::move(options);
    return any_value_;
  }

  uint32_t any_string() {
    if (any_string_ == 0) any_string_ = add(node_of(Kind::kString));
    return any_string_;
  }

  uint32_t map_of(uint32_t value) {
    GrammarNode map = node_of(Kind::kMap);
    map.keys = {any_string()};
    map.nodes = {value};
    return add(std::move(map));
  }

  /// What a reference into the schema begins at: the schema, or the nearest one around it that has
  /// an $id of its own (JSON Schema 2020-12, 8.2.1).
  struct Resource {
    const ordered_json* schema = nullptr;
    std::string where;
  };

  uint32_t value(const ordered_json& schema, const std::string& where, uint32_t depth);
  uint32_t value_here(const ordered_json& schema, const std::string& where, uint32_t depth);
  uint32_t referred(const ordered_json& schema, const std::string& where, uint32_t depth);
  uint32_t choices(const ordered_json& list, const std::string& where, uint32_t depth);
  uint32_t literals(const ordered_json& schema, const ordered_json& list, const std::string& where);
  uint32_t of_type(const std::string& type, const ordered_json& schema, const std::string& where,
                   uint32_t depth);
  uint32_t string(const ordered_json& schema, const std::string& where);
  uint32_t array(const ordered_json& schema, const std::string& where, uint32_t depth);
  uint32_t object(const ordered_json& schema, const std::string& where, uint32_t depth);
  void mark_required(const ordered_json& schema, const std::string& where, GrammarNode& node) const;

  uint32_t n_choices(uint32_t idx, uint32_t depth) const;
  void check_choices() const;
  uint32_t height_of(const GrammarNode& node) const;
  void find_heights();

  const ordered_json& schema_;
  Resource resource_;                           // of what is being compiled
  JsonGrammar grammar_ = {{GrammarNode{}}, 0};  // node 0 stands for "none yet"
  std::map<std::string, uint32_t> referred_;    // by the place in the whole schema
  uint32_t any_value_ = 0, any_string_ = 0;
};

void check_size(const ordered_json& schema) {
  std::vector<const ordered_json*> open = {&schema};
  size_t n_values = 1, n_bytes = 0;
  while (!open.empty()) {
    const ordered_json& one = *open.back();
    open.pop_back();
    if (one.is_string()) n_bytes += one.get_ref<const std::string&>().size();
    if (one.is_structured()) n_values += one.size();
    if (n_values > kSchemaValuesMax)
      refuse("values", fmt::format("are more than {}", kSchemaValuesMax));
    if (one.is_array())
      for (const ordered_json& item : one) open.push_back(&item);
    if (one.is_object())
      for (const auto& [name, inner] : one.items()) {
        n_bytes += name.size();
        open.push_back(&inner);
      }
    if (n_bytes > kSchemaTextMax)
      refuse("texts", fmt::format("are longer than {} KiB", kSchemaTextMax >> 10));
  }
}

/// Refuses every keyword that is neither in `known` nor only describes.
void check_keywords(const ordered_json& schema, const std::string& where,
                    std::initializer_list<std::string_view> known) {
  for (const auto& [key, unused] : schema.items()) {
    if (std::ranges::find(known, std::string_view(key)) != known.end()) continue;
    if (std::ranges::find(kDescribing, std::string_view(key)) != kDescribing.end()) continue;
    refuse(fmt::format("{}/{}", where, key), "is not supported here");
  }
}

uint32_t count_of(const ordered_json& schema, const std::string& where, const char* key,
                  uint32_t otherwise) {
  const auto found = schema.find(key);
  if (found == schema.end()) return otherwise;
  if (!found->is_number_integer() || *found < 0 || *found > INT32_MAX)
    refuse(where + "/" + key, "is no count");
  return found->get<uint32_t>();
}

bool is_of_type(const ordered_json& value, const std::string& type) {
  if (type == "string") return value.is_string();
  if (type == "integer") return value.is_number_integer();
  if (type == "number") return value.is_number();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  return type == "array" ? value.is_array() : value.is_object();
}

std::vector<std::string> types_of(const ordered_json& schema, const std::string& where) {
  constexpr auto kTypes = std::to_array<std::string_view>(
      {"string", "integer", "number", "boolean", "null", "array", "object"});
  std::vector<std::string> types;
  const auto found = schema.find("type");
  if (found == schema.end()) return types;
  const auto add = [&](const ordered_json& type) {
    if (!type.is_string() || std::ranges::find(kTypes, type.get<std::string>()) == kTypes.end())
      refuse(where + "/type", "is no type");
    types.push_back(type.get<std::string>());
  };
  if (!found->is_array()) {
    add(*found);
  } else {
    if (found->size() > kTypes.size()) refuse(where + "/type", "has more types than there are");
    for (const ordered_json& type : *found) add(type);
    if (types.empty()) refuse(where + "/type", "is empty");
  }
  return types;
}

/// An $id that is a name within a resource begins none.
bool begins_resource(const ordered_json& schema) {
  if (!schema.is_object()) return false;
  const auto id = schema.find("$id");
  return id != schema.end() && id->is_string() &&
         !id->get_ref<const std::string&>().starts_with('#');
}

uint32_t Compiler::value(const ordered_json& schema, const std::string& where, uint32_t depth) {
  if (!begins_resource(schema)) return value_here(schema, where, depth);
  const Resource around = std::exchange(resource_, {&schema, where});
  const uint32_t node = value_here(schema, where, depth);
  resource_ = around;
  return node;
}

uint32_t Compiler::value_here(const ordered_json& schema, const std::string& where,
                              uint32_t depth) {
  if (depth > kSchemaDepthMax) refuse(where, "nests too deep");
  if (schema.is_boolean() && schema.get<bool>()) return any_value();
  if (!schema.is_object()) refuse(where, "is no schema that a value can fit");
  if (schema.contains("$ref")) return referred(schema, where, depth);
  for (const char* const key : {"anyOf", "allOf"}) {
    const auto list = schema.find(key);
    if (list == schema.end()) continue;
    check_keywords(schema, where, {key});
    const std::string place = where + "/" + key;
    if (!list->is_array() || list->empty()) refuse(place, "is no list of schemas");
    if (std::string_view(key) == "allOf" && list->size() > 1)
      refuse(place, "has more than one schema");
    return choices(*list, place, depth);
  }
  if (const auto list = schema.find("enum"); list != schema.end()) {
    check_keywords(schema, where, {"enum", "type"});
    if (!list->is_array() || list->empty()) refuse(where + "/enum", "is no list of values");
    return literals(schema, *list, where + "/enum");
  }
  if (const auto one = schema.find("const"); one != schema.end()) {
    check_keywords(schema, where, {"const", "type"});
    return literals(schema, ordered_json::array({*one}), where + "/const");
  }
  const std::vector<std::string> types = types_of(schema, where);
  if (types.empty()) {
    check_keywords(schema, where, {});
    return any_value();
  }
  std::vector<uint32_t> options;
  options.reserve(types.size());
  for (const std::string& type : types) options.push_back(of_type(type, schema, where, depth));
  return any_of(std::move(options));
}

uint32_t Compiler::referred(const ordered_json& schema, const std::string& where, uint32_t depth) {
  check_keywords(schema, where, {"$ref"});
  const ordered_json& name = schema["$ref"];
  const std::string place = where + "/$ref";
  if (!name.is_string() || !name.get_ref<const std::string&>().starts_with('#'))
    refuse(place, "does not point into the schema");
  const auto& target = name.get_ref<const std::string&>();
  const std::string path = target.substr(1), target_place = resource_.where + path;
  if (const auto found = referred_.find(target_place); found != referred_.end())
    return found->second;
  const ordered_json* found = nullptr;
  try {
    const ordered_json::json_pointer pointer(path);
    if (resource_.schema->contains(pointer)) found = &resource_.schema->at(pointer);
  } catch (const ordered_json::exception&) {
    refuse(place, "is no JSON pointer");
  }
  const bool is_definition =
      target == "#" || target.starts_with("#/$defs/") || target.starts_with("#/definitions/");
  if (!found || !is_definition) refuse(place, "names no definition: " + target);
  // Known before it is made, so that it may refer to itself.
  const uint32_t node = add(node_of(Kind::kAnyOf));
  referred_[target_place] = node;
  const uint32_t made = value(*found, target_place, depth + 1);
  grammar_.nodes[node].nodes = {made};
  return node;
}

uint32_t Compiler::choices(const ordered_json& list, const std::string& where, uint32_t depth) {
  std::vector<uint32_t> options;
  options.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i)
    options.push_back(value(list[i], fmt::format("{}/{}", where, i), depth + 1));
  return any_of(std::move(options));
}

uint32_t Compiler::literals(const ordered_json& schema, const ordered_json& list,
                            const std::string& where) {
  const auto types = types_of(schema, where);
  std::vector<uint32_t> options;
  for (const ordered_json& one : list) {
    const auto fits = [&](const std::string& type) { return is_of_type(one, type); };
    if (!types.empty() && std::ranges::none_of(types, fits))
      refuse(where, "has a value that is not of its type");
    options.push_back(literal(one.dump()));
  }
  return any_of(std::move(options));
}

uint32_t Compiler::of_type(const std::string& type, const ordered_json& schema,
                           const std::string& where, uint32_t depth) {
  const bool is_alone = schema["type"].is_string();
  if (!is_alone && (type == "array" || type == "object"))
    refuse(where + "/type", "has " + type + " among others; write it as anyOf");
  if (type == "array") return array(schema, where, depth);
  if (type == "object") return object(schema, where, depth);
  // Several types may share a schema, in which those of strings count for strings.
  if (is_alone && type != "string") check_keywords(schema, where, {"type"});
  if (!is_alone) check_keywords(schema, where, {"type", "minLength", "maxLength"});
  if (type == "string") return string(schema, where);
  if (type == "integer") return add(node_of(Kind::kInteger));
  if (type == "number") return add(node_of(Kind::kNumber));
  if (type == "null") return literal("null");
  return any_of({literal("true"), literal("false")});
}

uint32_t Compiler::string(const ordered_json& schema, const std::string& where) {
  check_keywords(schema, where, {"type", "minLength", "maxLength"});
  GrammarNode node = node_of(Kind::kString);
  node.least = count_of(schema, where, "minLength", 0);
  node.most = count_of(schema, where, "maxLength", UINT32_MAX);
  if (node.least > node.most) refuse(where + "/minLength", "is above maxLength");
  return add(std::move(node));
}

uint32_t Compiler::array(const ordered_json& schema, const std::string& where, uint32_t depth) {
  check_keywords(schema, where, {"type", "items", "minItems", "maxItems"});
  GrammarNode node = node_of(Kind::kArray);
  node.least = count_of(schema, where, "minItems", 0);
  node.most = count_of(schema, where, "maxItems", UINT32_MAX);
  if (node.least > node.most) refuse(where + "/minItems", "is above maxItems");
  const auto items = schema.find("items");
  node.nodes = {items == schema.end() ? any_value() : value(*items, where + "/items", depth + 1)};
  return add(std::move(node));
}

void Compiler::mark_required(const ordered_json& schema, const std::string& where,
                             GrammarNode& node) const {
  node.is_required.assign(node.nodes.size(), 0);
  const auto required = schema.find("required");
  if (required == schema.end()) return;
  const std::string place = where + "/required";
  if (!required->is_array()) refuse(place, "is no list of names");
  if (required->size() > node.keys.size()) refuse(place, "has more names than properties");
  for (const ordered_json& name : *required) {
    if (!name.is_string()) refuse(place, "is no list of names");
    const std::string text = name.dump();
    size_t idx = 0;
    while (idx < node.keys.size() && grammar_.nodes[node.keys[idx]].text != text) ++idx;
    if (idx == node.keys.size()) refuse(place, "names " + text + ", which is no property");
    node.is_required[idx] = 1;
  }
}

uint32_t Compiler::object(const ordered_json& schema, const std::string& where, uint32_t depth) {
  check_keywords(schema, where, {"type", "properties", "required", "additionalProperties"});
  const auto properties = schema.find("properties");
  const auto more = schema.find("additionalProperties");
  const bool has_properties = properties != schema.end() && !properties->empty();
  if (properties != schema.end() && !properties->is_object())
    refuse(where + "/properties", "is no object");
  if (more != schema.end() && has_properties && !more->is_boolean())
    refuse(where + "/additionalProperties", "is a schema beside properties");
  const bool is_closed = more != schema.end() && more->is_boolean() && !more->get<bool>();
  const auto required = schema.find("required");
  const bool requires_none =
      required == schema.end() || (required->is_array() && required->empty());
  if (!has_properties && !is_closed && requires_none) {
    const bool is_any = more == schema.end() || more->is_boolean();
    return map_of(is_any ? any_value() : value(*more, where + "/additionalProperties", depth + 1));
  }
  GrammarNode node = node_of(Kind::kObject);
  if (has_properties) {
    if (properties->size() > kGrammarChoicesMax)
      refuse(where + "/properties", fmt::format("are more than {}", kGrammarChoicesMax));
    for (const auto& [name, one] : properties->items()) {
      node.keys.push_back(literal(ordered_json(name).dump()));
      node.nodes.push_back(value(one, fmt::format("{}/properties/{}", where, name), depth + 1));
    }
  }
  mark_required(schema, where, node);
  return add(std::move(node));
}

/// Of an anyOf with those inside of it; of what is none, 1.
uint32_t Compiler::n_choices(uint32_t idx, uint32_t depth) const {
  const GrammarNode& node = grammar_.nodes[idx];
  if (node.kind != Kind::kAnyOf) return 1;
  if (depth > kSchemaDepthMax) refuse("$ref", "leads to itself without a value between");
  uint32_t n = 0;
  for (const uint32_t option : node.nodes) {
    n += n_choices(option, depth + 1);
    if (n > kGrammarChoicesMax)
      refuse("choices", fmt::format("are more than {} in one place", kGrammarChoicesMax));
  }
  return n;
}

void Compiler::check_choices() const {
  for (uint32_t i = 0; i < grammar_.nodes.size(); ++i) (void)n_choices(i, 0);
}

uint32_t Compiler::height_of(const GrammarNode& node) const {
  const auto height = [&](uint32_t idx) { return grammar_.nodes[idx].height; };
  uint32_t inner = 0;
  switch (node.kind) {
    case Kind::kAnyOf:
      inner = kNoHeight;
      for (const uint32_t option : node.nodes) inner = std::min(inner, height(option));
      return inner;
    case Kind::kRoot:
      inner = height(node.nodes[0]);
      break;
    case Kind::kArray:
      if (node.least > 0) inner = height(node.nodes[0]);
      break;
    case Kind::kObject:  // a key takes a frame too
      for (size_t i = 0; i < node.nodes.size(); ++i)
        if (node.is_required[i]) inner = std::max({inner, height(node.nodes[i]), 1u});
      break;
    default:
      break;
  }
  return inner == kNoHeight ? kNoHeight : inner + 1;
}

/// The greatest fixed point, from above: each begins at "none" and only falls, once what it needs
/// has a height.
void Compiler::find_heights() {
  for (bool changes = true; changes;) {
    changes = false;
    for (GrammarNode& node : grammar_.nodes) {
      const uint32_t height = height_of(node);
      changes |= height != node.height;
      node.height = height;
    }
  }
  if (grammar_.nodes[grammar_.root].height > kGrammarFramesMax)
    refuse("root", fmt::format("fits no value that nests at most {} deep", kGrammarFramesMax));
}

}  // namespace

JsonGrammar compile_json_schema(const ordered_json& schema) {
  check_size(schema);
  return Compiler(schema).compile();
}

}  // namespace strata::engine
