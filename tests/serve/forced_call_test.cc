// Answers that have to be calls: what they are bound to, and what the client gets.
#include "tools/serve/forced_call.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "engine/grammar/answer_constraint.h"
#include "engine/grammar/json_grammar.h"
#include "engine/grammar/json_machine.h"
#include "tests/engine/letter_requests.h"
#include "tests/serve/api_fixture.h"
#include "tests/serve/scripted_service.h"
#include "tests/serve/socket_client.h"
#include "tools/serve/http_server.h"
#include "tools/serve/order_prompt.h"
#include "tools/serve/serve_app.h"

namespace strata::serve {
namespace {

using nlohmann::json;
using testing::chat_body;
using testing::messages_body;
using testing::parsed;

const std::string kForcedTools = R"(, "tools": [
  {"type": "function", "function": {"name": "look", "parameters": {"type": "object",
    "properties": {"far": {"type": "boolean"}}, "required": ["far"]}}},
  {"type": "function", "function": {"name": "stop"}}])";

ApiRequest forced(const std::string& choice, const std::string& tools = kForcedTools) {
  return parsed(ApiShape::kChat, chat_body(tools + R"(, "tool_choice": )" + choice));
}

const std::string kLook = R"({"type": "function", "function": {"name": "look"}})";

std::string schema_of(ToolCallStyle style, const std::string& choice = kLook) {
  ApiRequest request = forced(choice);
  (void)bind_forced_call(request, style);
  return request.order.answer_schema.dump();
}

TEST(ForcedCall, IsTheJsonThatTheFamilyWritesBehindItsMarker) {
  const std::string far =
      R"({"type":"object","properties":{"far":{"type":"boolean"}},"required":["far"],)"
      R"("$id":"parameters"})";
  const auto call = [&](const std::string& key) {
    return R"({"type":"object","properties":{"name":{"const":"look"},")" + key + "\":" + far +
           R"(},"required":["name",")" + key + "\"]}";
  };
  EXPECT_EQ(schema_of(ToolCallStyle::kLlama), call("parameters"));
  EXPECT_EQ(schema_of(ToolCallStyle::kHermes), call("arguments"));
  EXPECT_EQ(schema_of(ToolCallStyle::kMistral),
            R"({"type":"array","items":)" + call("arguments") + R"(,"minItems":1,"maxItems":1})");
  ApiRequest request = forced(kLook);
  EXPECT_EQ(bind_forced_call(request, ToolCallStyle::kLlama), ToolCallStyle::kLlama);
  EXPECT_EQ(request.order.answer_begin, "");
  EXPECT_EQ(bind_forced_call(request, ToolCallStyle::kHermes), ToolCallStyle::kLlama);
  EXPECT_EQ(request.order.answer_begin, "<tool_call>\n");
  EXPECT_EQ(bind_forced_call(request, ToolCallStyle::kMistral), ToolCallStyle::kMistral);
  EXPECT_EQ(request.order.answer_begin, "[TOOL_CALLS]");
  EXPECT_EQ(schema_of(ToolCallStyle::kMistralArgs), schema_of(ToolCallStyle::kMistral));
  EXPECT_EQ(schema_of(ToolCallStyle::kQwenCoder), schema_of(ToolCallStyle::kHermes));
  EXPECT_EQ(bind_forced_call(request, ToolCallStyle::kQwenCoder), ToolCallStyle::kLlama);
  EXPECT_EQ(bind_forced_call(request, ToolCallStyle::kMistralArgs), ToolCallStyle::kMistral);
}

TEST(ForcedCall, OfAnyToolMayBeEachOfThem) {
  const json schema = json::parse(schema_of(ToolCallStyle::kHermes, R"("required")"));
  ASSERT_EQ(schema["anyOf"].size(), 2u);
  EXPECT_EQ(schema["anyOf"][1]["properties"]["name"]["const"], "stop");
  ApiRequest request =
      parsed(ApiShape::kMessages, messages_body(R"(, "tool_choice": {"type": "any"}, "tools": [
        {"name": "look", "input_schema": {"type": "object"}}])"));
  (void)bind_forced_call(request, ToolCallStyle::kLlama);
  EXPECT_EQ(request.order.answer_schema["properties"]["name"]["const"], "look");
  request = parsed(ApiShape::kMessages,
                   messages_body(R"(, "tool_choice": {"type": "tool", "name": "look"}, "tools": [
        {"name": "go", "input_schema": {}}, {"name": "look", "input_schema": {}}])"));
  (void)bind_forced_call(request, ToolCallStyle::kLlama);
  EXPECT_EQ(request.order.answer_schema["properties"]["name"]["const"], "look");
}

std::string look_with(const std::string& parameters) {
  return R"(, "tools": [{"type": "function", "function": {"name": "look", "parameters": )" +
         parameters + "}}]";
}

TEST(ForcedCall, HasAnObjectForArgumentsWhereTheSchemaSaysNothing) {
  ApiRequest request = forced(kLook, look_with("{}"));
  (void)bind_forced_call(request, ToolCallStyle::kHermes);
  EXPECT_EQ(request.order.answer_schema["properties"]["arguments"].dump(), R"({"type":"object"})");
}

TEST(ForcedCall, NothingIsBoundWhereNoneIsForced) {
  ApiRequest request = forced(R"("auto")");
  EXPECT_EQ(bind_forced_call(request, ToolCallStyle::kNone), ToolCallStyle::kNone);
  EXPECT_EQ(bind_forced_call(request, ToolCallStyle::kHermes), ToolCallStyle::kHermes);
  EXPECT_TRUE(request.order.answer_schema.is_null());
}

std::string refusal(const std::string& choice, const std::string& tools, ToolCallStyle style) {
  try {
    ApiRequest request = forced(choice, tools);
    (void)bind_forced_call(request, style);
    return "taken";
  } catch (const Error& error) {
    return error.where() + ": " + error.what();
  }
}

TEST(ForcedCall, ThatCannotBeIsRefusedByName) {
  constexpr ToolCallStyle kStyle = ToolCallStyle::kHermes;
  EXPECT_EQ(refusal(R"("required")", "", kStyle),
            "tool_choice: tool_choice forces a call, and there are no tools");
  EXPECT_EQ(refusal(R"({"type": "function", "function": {"name": "go"}})", kForcedTools, kStyle),
            "tool_choice: tool_choice names \"go\", which is none of the tools");
  EXPECT_EQ(refusal(kLook, kForcedTools, ToolCallStyle::kNone),
            "tool_choice: tool_choice forces a call, and how this model writes calls is not known "
            "here");
  EXPECT_EQ(refusal(kLook, kForcedTools + R"(, "ignore_eos": true)", kStyle),
            "ignore_eos: ignore_eos is true; wanted false with a call that is forced");
  const std::string pattern =
      look_with(R"({"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}})");
  EXPECT_EQ(refusal(kLook, pattern, kStyle),
            "tools: a call of these tools cannot be forced: the schema's "
            "#/properties/arguments/properties/a/pattern is not supported here");
  for (const char* const open :
       {R"({"type": "string"})", R"({"description": "any"})",
        R"({"anyOf": [{"type": "object"}, {"type": "array"}]})", R"({"const": 1})"})
    EXPECT_EQ(refusal(kLook, look_with(open), kStyle),
              "tools: a call of these tools cannot be forced: the parameters of \"look\" may be no "
              "object")
        << open;
  const std::string either = R"({"anyOf": [{"type": "object"}, {"const": {"a": 1}}]})";
  EXPECT_EQ(refusal(kLook, look_with(either), kStyle), "taken");
}

TEST(ForcedCall, ComesToTheClientAsACall) {
  testing::ScriptedService service;
  service.said_facts.chat_template = "{{ tools }}<tool_call>";
  service.script = {testing::text_event(R"({"name": "look", "argu)"),
                    testing::text_event(R"(ments": {"far": true}})"), testing::end_event()};
  ServeApp app(ServeApp::Options{});
  app.set_service(service);
  ListenAddress address;
  address.port = 0;
  HttpServer server(Listener::open(address), app, HttpLimits{});
  const auto reply =
      testing::SocketClient(server.listener().port())
          .post("/v1/chat/completions", chat_body(kForcedTools + R"(, "tool_choice": "required")"));
  ASSERT_EQ(reply.status, 200) << reply.body;
  const json choice = json::parse(reply.body)["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_EQ(choice["message"]["tool_calls"][0]["function"]["name"], "look");
  EXPECT_EQ(choice["message"]["tool_calls"][0]["function"]["arguments"], R"({"far":true})");
  EXPECT_EQ(service.orders().at(0).answer_begin, "<tool_call>\n");
}

/// `#` and definitions are those of the tool, not of the call around it nor of another tool.
TEST(ForcedCall, ReferencesOfParametersBeginAtThem) {
  const auto tool = [](const std::string& name, const std::string& of_value) {
    return R"({"type": "function", "function": {"name": ")" + name +
           R"(", "parameters": {"type": "object", "$defs": {"value": )" + of_value +
           R"(}, "properties": {"next": {"$ref": "#"}, "value": {"$ref": "#/$defs/value"}}}}})";
  };
  const std::string tools = R"(, "tools": [)" + tool("look", R"({"type": "boolean"})") + ", " +
                            tool("go", R"({"const": 7})") + "]";
  for (const ToolCallStyle family :
       {ToolCallStyle::kLlama, ToolCallStyle::kHermes, ToolCallStyle::kMistral}) {
    ApiRequest request = forced(R"("required")", tools);
    (void)bind_forced_call(request, family);
    const engine::JsonGrammar grammar = engine::compile_json_schema(request.order.answer_schema);
    const std::string key = family == ToolCallStyle::kLlama ? "parameters" : "arguments";
    const auto takes = [&](const std::string& name, const std::string& arguments) {
      std::string text = R"({"name": ")" + name + R"(", ")" + key + R"(": )" + arguments + "}";
      if (family == ToolCallStyle::kMistral) text = "[" + text + "]";
      std::vector<engine::GrammarStack> stacks = {engine::first_stack(grammar)};
      for (const char byte : text) {
        std::vector<engine::GrammarStack> next;
        for (const engine::GrammarStack& stack : stacks)
          engine::step_stack(grammar, stack, static_cast<uint8_t>(byte), next);
        stacks = std::move(next);
      }
      return std::ranges::any_of(
          stacks, [&](const auto& stack) { return engine::may_end(grammar, stack); });
    };
    EXPECT_TRUE(takes("look", R"({"next": {"next": {}, "value": true}, "value": false})"));
    EXPECT_TRUE(takes("go", R"({"next": {"next": {}, "value": 7}})"));
    EXPECT_FALSE(takes("look", R"({"value": 7})"));
    EXPECT_FALSE(takes("go", R"({"next": {"value": true}})"));
    // What the whole call looks like is no value of the reference.
    EXPECT_FALSE(takes("look", R"({"next": {"name": "look"}})"));
  }
}

/// Answers drawn byte by byte from what the schema leaves are calls, each of them.
TEST(ForcedCall, IsWhateverTheSchemaLetsAModelWrite) {
  std::vector<std::string> texts = {""};
  for (int byte = 0; byte < 256; ++byte) texts.emplace_back(1, static_cast<char>(byte));
  const auto table =
      std::make_shared<const engine::TokenTable>(texts, std::vector<engine::TokenId>{0});
  std::mt19937 random(11);
  for (const ToolCallStyle family :
       {ToolCallStyle::kLlama, ToolCallStyle::kHermes, ToolCallStyle::kMistral}) {
    ApiRequest request = forced(R"("required")");
    ToolCallReader reader(bind_forced_call(request, family));
    engine::AnswerConstraint constraint(table,
                                        engine::compile_json_schema(request.order.answer_schema));
    std::vector<AnswerPiece> pieces;
    for (engine::TokenId token = -1; token != 0;) {
      std::vector<engine::TokenId> allowed;
      const auto mask = constraint.allowed();
      for (size_t i = 0; i < texts.size(); ++i)
        if (mask[i / 64] >> (i % 64) & 1) allowed.push_back(static_cast<engine::TokenId>(i));
      ASSERT_FALSE(allowed.empty());
      token = allowed.front() == 0 ? 0 : allowed[random() % allowed.size()];
      constraint.accept(token);
      for (AnswerPiece& piece : reader.push(texts[static_cast<size_t>(token)]))
        pieces.push_back(std::move(piece));
    }
    for (AnswerPiece& piece : reader.finish()) pieces.push_back(std::move(piece));
    ASSERT_EQ(pieces.size(), 1u);
    ASSERT_TRUE(pieces[0].call) << pieces[0].text;
    const bool is_look = pieces[0].call->name == "look";
    EXPECT_TRUE(is_look || pieces[0].call->name == "stop");
    EXPECT_EQ(json::parse(pieces[0].call->arguments).contains("far"), is_look);
  }
}

TEST(ForcedCall, StandsBehindItsMarkerInThePrompt) {
  engine::testing::SmallModel small = engine::testing::drawn_model();
  small.set("tokenizer.chat_template",
            std::string("{{ messages[0].content }}{% if tools %}, <tool_call>{% endif %};"));
  const engine::testing::TemporaryModel model(small);
  engine::EngineOptions options;
  options.model_path = model.path();
  const engine::Engine engine = engine::Engine::open(options);
  const OrderPrompts prompts(engine);
  ApiRequest request = forced(kLook);
  (void)bind_forced_call(request, tool_call_style(prompts.template_source()));
  EXPECT_EQ(prompts.rendered(request.order), "hi, <tool_call>;<tool_call>\n");
  AnswerOrder plain = request.order;
  plain.answer_begin.clear();
  EXPECT_GT(prompts.encode(request.order).size(), prompts.encode(plain).size());
}

}  // namespace
}  // namespace strata::serve
