// openapi.json: that it is what OpenAPI wants, and that its fields are those that the parsers read.
// tests/serve/api_fixture.h holds the bodies of all tests of requests against it, and
// described_replies_test.cc replies.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>
#include <string>

#include "tests/serve/described.h"
#include "tests/serve/json_schema.h"
#include "tests/tree_paths.h"

namespace strata::serve {
namespace {

using nlohmann::json;
using testing::described;
using testing::referred;
using testing::schema_fault;

/// Every object inside of a value, the value itself among them.
void walk(const json& value, const std::function<void(const json&)>& visit) {
  if (value.is_object()) visit(value);
  if (value.is_structured())
    for (const json& inner : value) walk(inner, visit);
}

TEST(SchemaCheck, FindsWhatDoesNotFit) {
  const json document = {{"a", {{"b", {{"type", "integer"}}}}}};
  const auto fault = [&](const char* schema, const char* value,
                         testing::Unnamed unnamed = testing::Unnamed::kAnything) {
    return schema_fault(document, json::parse(schema), json::parse(value), unnamed);
  };
  EXPECT_EQ(fault(R"({"$ref": "#/a/b"})", "4.0"), "");
  EXPECT_EQ(fault(R"({"$ref": "#/a/b"})", "4.5"), R"(value is 4.5; type is "integer")");
  EXPECT_EQ(fault(R"({"$ref": "#/a/c"})", "4"), "there is no #/a/c");
  EXPECT_EQ(fault(R"({"items": {"enum": [1, null]}})", "[1, null, 2]"),
            "value[2] is 2; enum is [1,null]");
  EXPECT_EQ(fault(R"({"type": ["object"], "required": ["x"]})", "{}"),
            R"(value is {}; required is ["x"])");
  EXPECT_EQ(fault(R"({"anyOf": [{"minimum": 3}, {"maximum": 1}]})", "2"),
            "value fits none: (value is 2; minimum is 3) (value is 2; maximum is 1)");
  EXPECT_EQ(fault(R"({"allOf": [{"minItems": 1}, {"maxItems": 1}]})", "[1, 2]"),
            "value is [1,2]; maxItems is 1");
  EXPECT_EQ(fault(R"({"minLength": 1, "pattern": "^a"})", R"("b")"),
            R"(value is "b"; pattern is "^a")");
  EXPECT_EQ(fault(R"({"not": {}})", "1"), "the check does not know not");
  EXPECT_EQ(fault(R"({"properties": {"x": {"type": "null"}}})", R"({"x": null, "y": 1})"), "");
  EXPECT_EQ(fault(R"({"properties": {"x": {"type": "null"}}})", R"({"x": null, "y": 1})",
                  testing::Unnamed::kNothing),
            "value.y is not described");
  EXPECT_EQ(fault(R"({"additionalProperties": {"type": "string"}})", R"({"y": 1})"),
            R"(value.y is 1; type is "string")");
}

/// Source: OpenAPI 3.1, the objects "OpenAPI", "Operation", "Parameter" and "Response".
TEST(Description, HasWhatOpenApiWants) {
  const json& all = described();
  EXPECT_EQ(all["openapi"], "3.1.0");
  EXPECT_TRUE(all["info"]["title"].is_string() && all["info"]["version"].is_string());
  std::set<json> ids;
  for (const auto& [path, methods] : all["paths"].items()) {
    for (const auto& [method, operation] : methods.items()) {
      SCOPED_TRACE(method + " " + path);
      EXPECT_TRUE(ids.insert(operation.at("operationId")).second);
      EXPECT_EQ(operation.contains("requestBody"), method == "post");
      std::set<std::string> in_path;
      for (const json& parameter : operation.value("parameters", json::array())) {
        EXPECT_TRUE(parameter.contains("schema")) << parameter;
        if (parameter.at("in") == "path")
          in_path.insert("{" + std::string(parameter["name"]) + "}");
        EXPECT_EQ(parameter["in"] == "path",
                  parameter.value("required", false) && parameter["in"] != "query")
            << parameter;
      }
      EXPECT_EQ(in_path.contains("{id}"), path.find("{id}") != std::string::npos);
      EXPECT_TRUE(operation["responses"].contains("200"));
      for (const auto& [status, response] : operation["responses"].items()) {
        const json* of = &response;
        if (response.contains("$ref")) of = referred(all, response["$ref"]);
        ASSERT_NE(of, nullptr) << response;
        EXPECT_TRUE(of->contains("description")) << status;
        for (const auto& [type, content] : of->at("content").items())
          EXPECT_TRUE(content.contains("schema")) << status << type;
      }
    }
  }
}

TEST(Description, RefersToEachOfItsPartsAndToNoOther) {
  const json& all = described();
  std::set<std::string> used;
  walk(all, [&](const json& object) {
    if (!object.contains("$ref")) return;
    used.insert(object["$ref"]);
    EXPECT_NE(referred(all, object["$ref"]), nullptr) << object;
  });
  for (const char* kind : {"schemas", "responses"}) {
    for (const auto& [name, part] : all["components"][kind].items()) {
      const bool is_of_none = name == "noPath" || name == "noMethod" || name == "noHead";
      EXPECT_NE(used.contains(fmt::format("#/components/{}/{}", kind, name)), is_of_none) << name;
    }
  }
}

std::string source_of(const std::string& path) {
  std::ifstream file(tree_path("tools/serve/" + path));
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_FALSE(text.str().empty()) << path;
  return text.str();
}

/// The names of fields in the sources of a parser, by how parsers ask for them.
std::set<std::string> fields_read(const std::vector<std::string>& paths) {
  static const std::regex asked(
      R"re((?:[.>](?:find|flag|number|integer|text|array|object|required_text)\(|set\(|)re"
      R"re(read_stop\(\w+, |function_tool\(.*, )"(\w+)")re");
  static const std::regex listed(R"re(name : \{([^}]*)\})re"), word(R"re("(\w+)")re");
  static const std::regex neutral(R"re((?:\n    |\(\{)\{"(\w+)", "(?:[^"\\]|\\.)*"\})re");
  std::set<std::string> names;
  const auto add = [&](const std::string& text, const std::regex& pattern) {
    for (std::sregex_iterator at(text.begin(), text.end(), pattern), end; at != end; ++at)
      names.insert((*at)[1]);
  };
  for (const std::string& path : paths) {
    const std::string source = source_of(path);
    add(source, asked);
    add(source, neutral);
    for (std::sregex_iterator at(source.begin(), source.end(), listed), end; at != end; ++at)
      add((*at)[1], word);
  }
  return names;
}

/// The names of fields in a schema, of objects inside of it as well.
void add_described(const json& schema, std::set<std::string>& names) {
  walk(schema, [&](const json& object) {
    if (object.contains("$ref") && object["$ref"].is_string())
      add_described(*referred(described(), object["$ref"]), names);
    if (object.contains("properties") && object["properties"].is_object())
      for (const auto& [name, of] : object["properties"].items()) names.insert(name);
  });
}

std::set<std::string> fields_described(const std::vector<std::string>& schemas) {
  std::set<std::string> names;
  for (const std::string& name : schemas)
    add_described(described()["components"]["schemas"].at(name), names);
  return names;
}

TEST(Description, NamesTheFieldsThatParsersRead) {
  EXPECT_EQ(fields_read({"openai_request.cc", "openai_messages.cc", "request_shapes.cc"}),
            fields_described({"chatRequest", "completionRequest"}));
  EXPECT_EQ(fields_read({"anthropic_request.cc", "request_shapes.cc"}),
            fields_described({"messagesRequest"}));
  EXPECT_EQ(fields_read({"model_replies.cc"}),
            fields_described({"tokenizeRequest", "detokenizeRequest"}));
  EXPECT_EQ(fields_read({"slot_request.cc"}), fields_described({"slotRequest"}));
}

TEST(Description, RefusesBodiesThatTheServerDoes) {
  const auto fault = [](const char* schema, const char* body) {
    return schema_fault(described(), described()["components"]["schemas"][schema],
                        json::parse(body));
  };
  EXPECT_NE(fault("chatRequest", "{}"), "");
  EXPECT_NE(fault("chatRequest", R"({"messages": []})"), "");
  EXPECT_NE(fault("chatRequest", R"({"messages": [{"role": "wizard", "content": "a"}]})"), "");
  const std::string good = R"({"messages": [{"role": "user", "content": "a"}])";
  for (const char* more :
       {R"("temperature": "hot")", R"("n": 2)", R"("top_logprobs": 21)", R"("tool_choice": "some")",
        R"("tools": [{"type": "function"}])", R"("stop": "")", R"("logit_bias": {"1": 101})",
        R"("response_format": {"type": "json_schema"})"})
    EXPECT_NE(fault("chatRequest", (good + ", " + more + "}").c_str()), "") << more;
  EXPECT_NE(fault("completionRequest", R"({"prompt": []})"), "");
  EXPECT_NE(fault("completionRequest", R"({"prompt": ["a", "b"]})"), "");
  EXPECT_NE(fault("messagesRequest", (good + "}").c_str()), "");
  EXPECT_NE(fault("slotRequest", R"({"filename": "../a"})"), "");
}

}  // namespace
}  // namespace strata::serve
