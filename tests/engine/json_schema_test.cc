// Schemas of answers: what compiles, which texts its machine takes, what is refused by name.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/grammar/json_machine.h"

namespace strata::engine {
namespace {

using nlohmann::ordered_json;

JsonGrammar compiled(std::string_view schema) {
  return compile_json_schema(ordered_json::parse(schema));
}

/// Whether the machine takes the whole text, and whether it may end there.
bool takes(const JsonGrammar& grammar, std::string_view text) {
  std::vector<GrammarStack> stacks = {first_stack(grammar)}, next;
  for (const char byte : text) {
    next.clear();
    for (const GrammarStack& stack : stacks)
      step_stack(grammar, stack, static_cast<uint8_t>(byte), next);
    stacks = next;
  }
  for (const GrammarStack& stack : stacks)
    if (may_end(grammar, stack)) return true;
  return false;
}

bool takes(std::string_view schema, std::string_view text) { return takes(compiled(schema), text); }

std::string refusal_of(std::string_view schema) {
  try {
    (void)compiled(schema);
    return "taken";
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUsage || error.remedy().empty()) return "another error";
    return error.what();
  }
}

TEST(JsonSchema, OfNothingTakesAnyJson) {
  const JsonGrammar any = compiled("{}");
  for (const char* const text :
       {"1", "-0.5e-7", "\"\"", "null", "true", "[]", "[1,[2], {}]", "{\"a\": {\"b\":[null]}}",
        "\n{\n  \"a\": 1\n}", "\"\\u00e9\\n\\\\ \xC3\xA9\xF0\x9F\x98\x80\"", " 5"})
    EXPECT_TRUE(takes(any, text) && ordered_json::accept(text)) << text;
  for (const char* const text : {"",
                                 "-",
                                 "01",
                                 "1.",
                                 "1e",
                                 "1e400",
                                 "[1,]",
                                 "{\"a\"}",
                                 "{\"a\":1,}",
                                 "tru",
                                 "1 ",
                                 "[ ",
                                 "\"\x01\"",
                                 "\"\\x\"",
                                 "\"\\ud800\"",
                                 "\"\xC3\"",
                                 "\"\xC0\x80\"",
                                 "\"\xED\xA0\x80\"",
                                 "{a:1}",
                                 "[1 2]",
                                 "1234567890123456",
                                 "\"a"})
    EXPECT_FALSE(takes(any, text)) << text;
}

TEST(JsonSchema, OfAnObjectKeepsItsOrderAndWhatItRequires) {
  const JsonGrammar object = compiled(R"({"type": "object", "required": ["b"],
    "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}, "ab": {"type": "null"}},
    "additionalProperties": false, "title": "t", "$defs": {}})");
  for (const char* const text :
       {R"({"b":true})", R"({"a": 1, "b": false})", R"({"b": true,"ab":null})",
        "{\n\t\"a\": -3,\n\t\"b\": true,\n\t\"ab\": null\n}"})
    EXPECT_TRUE(takes(object, text)) << text;
  for (const char* const text :
       {"{}", R"({"a":1})", R"({"b":true,"a":1})", R"({"b":true,"b":true})",
        R"({"a":1.5,"b":true})", R"({"b":true,"c":1})", R"({"b":true,})", R"({"b" :true})",
        R"({"ab":null})"})
    EXPECT_FALSE(takes(object, text)) << text;
  EXPECT_TRUE(takes(R"({"type": "object", "additionalProperties": false})", "{}"));
  EXPECT_FALSE(takes(R"({"type": "object", "additionalProperties": false})", R"({"a":1})"));
  EXPECT_TRUE(takes(R"({"type": "object", "required": []})", R"({"a":1})"));
  EXPECT_FALSE(
      takes(R"({"type": "object", "required": [], "additionalProperties": {"type": "integer"}})",
            R"({"x":"1"})"));
  const JsonGrammar map =
      compiled(R"({"type": "object", "additionalProperties": {"type": "integer"}})");
  EXPECT_TRUE(takes(map, R"({"x": 1, "": 2})"));
  EXPECT_FALSE(takes(map, R"({"x": "1"})"));
}

TEST(JsonSchema, CountsItemsAndCodePoints) {
  const JsonGrammar array = compiled(
      R"({"type": "array", "minItems": 1, "maxItems": 2, "items": {"enum": ["a", 5, null]}})");
  EXPECT_TRUE(takes(array, R"(["a"])"));
  EXPECT_TRUE(takes(array, R"([5, null])"));
  EXPECT_FALSE(takes(array, "[]"));
  EXPECT_FALSE(takes(array, "[5,5,5]"));
  EXPECT_FALSE(takes(array, "[6]"));
  EXPECT_FALSE(takes(R"({"type": "array", "maxItems": 0})", "[1]"));
  EXPECT_TRUE(takes(R"({"type": "array", "minItems": 2})", "[1,2,3,4]"));
  EXPECT_FALSE(takes(R"({"type": "array", "minItems": 2})", "[1]"));
  const JsonGrammar text = compiled(R"({"type": "string", "minLength": 1, "maxLength": 2})");
  EXPECT_TRUE(takes(text, "\"\xF0\x9F\x98\x80\\u0041\""));
  EXPECT_FALSE(takes(text, "\"\""));
  EXPECT_FALSE(takes(text, "\"abc\""));
  EXPECT_FALSE(takes(text, R"("\u0041\n\n")"));
  EXPECT_TRUE(takes(R"({"const": "\u00e9"})", "\"\xC3\xA9\""));
}

TEST(JsonSchema, TriesEveryChoiceAtOnce) {
  const JsonGrammar choice = compiled(R"({"anyOf": [{"type": "string", "maxLength": 1},
    {"type": "string", "minLength": 4, "maxLength": 4}, {"type": ["integer", "null"]},
    {"allOf": [{"$ref": "#/$defs/pair"}]}],
    "$defs": {"pair": {"type": "array", "minItems": 2, "maxItems": 2}}})");
  for (const char* const text : {R"("a")", R"("abcd")", "12", "null", "[1, {}]"})
    EXPECT_TRUE(takes(choice, text)) << text;
  for (const char* const text : {R"("ab")", R"("abcde")", "1.5", "[1]"})
    EXPECT_FALSE(takes(choice, text)) << text;
}

TEST(JsonSchema, ReferencesBeginAtTheNearestSchemaThatHasAnId) {
  const JsonGrammar outer = compiled(R"({"type": "object", "$id": "a", "properties": {
    "in": {"$id": "b", "type": "object", "properties": {"v": {"$ref": "#/$defs/v"},
      "in": {"$ref": "#"}}, "$defs": {"v": {"const": 1}}},
    "out": {"$ref": "#"}, "v": {"$ref": "#/$defs/v"}}, "$defs": {"v": {"const": 2}}})");
  EXPECT_TRUE(takes(outer, R"({"in":{"v":1,"in":{"v":1}},"out":{"v":2},"v":2})"));
  EXPECT_FALSE(takes(outer, R"({"in":{"v":2}})"));
  EXPECT_FALSE(takes(outer, R"({"in":{"in":{"out":{}}}})"));
  EXPECT_FALSE(takes(outer, R"({"v":1})"));
  // One that only names a place begins nothing.
  const JsonGrammar anchor = compiled(R"({"type": "object", "properties": {
    "a": {"$id": "#here", "type": "array", "items": {"$ref": "#"}}}})");
  EXPECT_TRUE(takes(anchor, R"({"a":[{"a":[]}]})"));
  EXPECT_EQ(refusal_of(R"({"$defs": {"v": {}}, "type": "object", "properties": {"in": {
              "$id": "b", "type": "object", "properties": {"v": {"$ref": "#/$defs/v"}}}}})"),
            "the schema's #/properties/in/properties/v/$ref names no definition: #/$defs/v");
}

TEST(JsonSchema, MayReferToItselfWhereValuesStayFinite) {
  const JsonGrammar list = compiled(R"({"$ref": "#/definitions/node", "definitions": {"node":
    {"type": "object", "required": ["v"], "properties": {"v": {"type": "integer"},
     "next": {"$ref": "#/definitions/node"}}}}})");
  EXPECT_TRUE(takes(list, R"({"v":1,"next":{"v":2,"next":{"v":3}}})"));
  EXPECT_FALSE(takes(list, R"({"v":1,"next":{}})"));
  std::string deep = "1";
  for (int i = 0; i < 70; ++i) deep = "[" + deep + "]";
  EXPECT_FALSE(takes("{}", deep));
  EXPECT_TRUE(takes("{}", deep.substr(8, deep.size() - 16)));
  EXPECT_EQ(
      refusal_of(R"({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}})"),
      "the schema's root fits no value that nests at most 64 deep");
  EXPECT_EQ(refusal_of(R"({"anyOf": [{"$ref": "#"}, {"type": "null"}]})"),
            "the schema's $ref leads to itself without a value between");
}

TEST(JsonSchema, RefusesWhatIsOutsideTheSubsetByName) {
  EXPECT_EQ(refusal_of(R"({"type": "string", "pattern": "a+"})"),
            "the schema's #/pattern is not supported here");
  EXPECT_EQ(
      refusal_of(R"({"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}})"),
      "the schema's #/properties/a/minimum is not supported here");
  EXPECT_EQ(refusal_of(R"({"type": ["integer", "null"], "minimum": 1})"),
            "the schema's #/minimum is not supported here");
  EXPECT_EQ(refusal_of(R"({"oneOf": []})"), "the schema's #/oneOf is not supported here");
  EXPECT_EQ(refusal_of(R"({"type": "thing"})"), "the schema's #/type is no type");
  EXPECT_EQ(refusal_of(R"({"type": "object", "properties": {"a": {}}, "required": ["b"]})"),
            "the schema's #/required names \"b\", which is no property");
  EXPECT_EQ(refusal_of(R"({"$ref": "#/$defs/x"})"),
            "the schema's #/$ref names no definition: #/$defs/x");
  EXPECT_EQ(refusal_of(R"({"$ref": "http://x/y"})"),
            "the schema's #/$ref does not point into the schema");
  EXPECT_EQ(refusal_of(R"({"type": "array", "minItems": 3, "maxItems": 2})"),
            "the schema's #/minItems is above maxItems");
  EXPECT_EQ(refusal_of(R"({"type": "string", "maxLength": -1})"),
            "the schema's #/maxLength is no count");
  EXPECT_EQ(refusal_of(R"({"enum": ["a"], "type": "integer"})"),
            "the schema's #/enum has a value that is not of its type");
  EXPECT_EQ(refusal_of(R"({"allOf": [{}, {}]})"), "the schema's #/allOf has more than one schema");
  EXPECT_EQ(refusal_of(R"({"type": "object", "required": null})"),
            "the schema's #/required is no list of names");
  EXPECT_EQ(refusal_of("false"), "the schema's # is no schema that a value can fit");
  ordered_json many = {{"enum", ordered_json::array()}};
  for (int i = 0; i < 257; ++i) many["enum"].push_back(i);
  EXPECT_EQ(refusal_of(many.dump()), "the schema's choices are more than 256 in one place");
}

TEST(JsonSchema, RefusesWhatWouldTakeLongToCompile) {
  EXPECT_EQ(refusal_of(R"({"type": "object", "properties": {"a": {}}, "required": ["a", "a"]})"),
            "the schema's #/required has more names than properties");
  EXPECT_EQ(refusal_of(R"({"type": ["null", "null", "null", "null", "null", "null", "null",
                                    "null"]})"),
            "the schema's #/type has more types than there are");
  ordered_json many = {{"default", ordered_json::array()}};
  while (many["default"].size() < 4094) many["default"].push_back(1);
  EXPECT_EQ(refusal_of(many.dump()), "taken");
  many["default"].push_back(ordered_json::object());
  many["default"].back()["a"] = 1;
  EXPECT_EQ(refusal_of(many.dump()), "the schema's values are more than 4096");
  const std::string text(128u << 10, 'x');
  const ordered_json name = {{"$defs", {{text, true}}}}, both = {{"$defs", {{text, text}}}};
  EXPECT_EQ(refusal_of(name.dump()), "taken");
  EXPECT_EQ(refusal_of(both.dump()), "the schema's texts are longer than 256 KiB");
}

}  // namespace
}  // namespace strata::engine
