// Bodies of requests: what becomes of each field, and that what would change an answer's meaning is
// taken or refused by name.
#include "tools/serve/api_request.h"

#include <gtest/gtest.h>

#include <fmt/format.h>

#include "tests/serve/api_fixture.h"

namespace strata::serve {
namespace {

using testing::chat_body;
using testing::completion_body;
using testing::parsed;
using testing::refusal_of;

std::string chat_refusal(const std::string& more) {
  return refusal_of(ApiShape::kChat, chat_body(more));
}

/// The messages as "role:content{fields};".
std::string conversation_of(const ApiRequest& request) {
  std::string out;
  for (const auto& message : request.order.messages)
    out +=
        message.role + ":" + message.content + (message.fields ? message.fields->dump() : "") + ";";
  return out;
}

std::string messages_refusal(const std::string& messages) {
  return refusal_of(ApiShape::kChat, R"({"messages": )" + messages + "}");
}

TEST(ApiRequest, TakesWhatABodyDoesNotSayFromTheDefaults) {
  ApiDefaults defaults;
  defaults.sampler.temperature = 0.25;
  defaults.sampler.seed = 77;
  defaults.n_predict = 12;
  const ApiRequest request =
      parse_request(ApiShape::kChat,
                    chat_body(R"(, "seed": -1, "temperature": null, "unheard_of": {})"), defaults);
  EXPECT_EQ(request.order.sampler.temperature, 0.25);
  EXPECT_EQ(request.order.sampler.seed, 77u);
  EXPECT_EQ(request.order.n_predict, 12u);
  EXPECT_EQ(request.model, "");
  EXPECT_FALSE(request.is_streamed || request.includes_usage || request.returns_progress ||
               request.order.ignore_eos);
  EXPECT_FALSE(request.order.n_logprobs.has_value());
  EXPECT_TRUE(request.order.tools.is_null());
  EXPECT_EQ(conversation_of(request), "user:hi;");
}

TEST(ApiRequest, TakesEveryFieldOfSampling) {
  const ApiRequest request = parsed(ApiShape::kChat, chat_body(R"(, "temperature": 1.5,
    "top_p": 0.5, "top_k": 7, "min_p": 0.125, "seed": 9, "repeat_penalty": 1.25,
    "repeat_last_n": 3, "presence_penalty": -0.5, "frequency_penalty": 2,
    "logit_bias": {"5": -100, "17": 1.5}, "ignore_eos": true, "max_tokens": 4.0)"));
  const engine::SamplerOptions& sampler = request.order.sampler;
  EXPECT_EQ(sampler.temperature, 1.5);
  EXPECT_EQ(sampler.top_p, 0.5);
  EXPECT_EQ(sampler.top_k, 7u);
  EXPECT_EQ(sampler.min_p, 0.125);
  EXPECT_EQ(sampler.seed, 9u);
  EXPECT_EQ(sampler.repeat_penalty, 1.25);
  EXPECT_EQ(sampler.repeat_last_n, 3u);
  EXPECT_EQ(sampler.presence_penalty, -0.5);
  EXPECT_EQ(sampler.frequency_penalty, 2);
  const std::vector<std::pair<engine::TokenId, double>> biases = {{5, -100}, {17, 1.5}};
  EXPECT_EQ(sampler.logit_bias, biases);
  EXPECT_TRUE(request.order.ignore_eos);
  EXPECT_EQ(request.order.n_predict, 4u);
}

TEST(ApiRequest, TakesLengthsStopsAndStreaming) {
  const ApiRequest request = parsed(ApiShape::kChat, chat_body(R"(, "model": "m", "stream": true,
    "stream_options": {"include_usage": true}, "return_progress": true, "cache_prompt": true,
    "max_tokens": 5, "max_completion_tokens": 6, "stop": ["a", "\u00e9"])"));
  EXPECT_EQ(request.model, "m");
  EXPECT_TRUE(request.is_streamed && request.includes_usage && request.returns_progress);
  EXPECT_EQ(request.order.n_predict, 6u);
  EXPECT_EQ(request.order.stop, (std::vector<std::string>{"a", "\xC3\xA9"}));
  EXPECT_EQ(parsed(ApiShape::kChat, chat_body(R"(, "stop": "x")")).order.stop,
            std::vector<std::string>{"x"});
  EXPECT_EQ(parsed(ApiShape::kChat, chat_body(R"(, "n_predict": -1)")).order.n_predict, UINT64_MAX);
  EXPECT_EQ(parsed(ApiShape::kChat, chat_body(R"(, "logprobs": true)")).order.n_logprobs, 0u);
  EXPECT_EQ(parsed(ApiShape::kChat, chat_body(R"(, "logprobs": true, "top_logprobs": 3)"))
                .order.n_logprobs,
            3u);
  const ApiRequest kwargs = parsed(ApiShape::kChat, chat_body(R"(, "reasoning_effort": "low",
    "chat_template_kwargs": {"enable_thinking": false})"));
  EXPECT_EQ(kwargs.order.template_values.dump(),
            R"({"enable_thinking":false,"reasoning_effort":"low"})");
}

TEST(ApiRequest, TakesEveryRoleAndPartsOfText) {
  const ApiRequest request = parsed(ApiShape::kChat, R"({"messages": [
    {"role": "system", "content": "S"}, {"role": "developer", "content": "D"},
    {"role": "user", "name": "ann", "content": [{"type": "text", "text": "a"},
                                                {"type": "text", "text": "b"}]},
    {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function",
      "function": {"name": "f", "arguments": "{\"z\": 1, \"a\": [true]}"}},
      {"function": {"name": "g", "arguments": "not JSON"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "12"},
    {"role": "assistant", "content": "x", "reasoning_content": "r"}]})");
  EXPECT_EQ(conversation_of(request),
            "system:S;system:D;user:a\nb{\"name\":\"ann\"};"
            R"(assistant:{"tool_calls":[{"id":"c1","type":"function","function":)"
            R"({"name":"f","arguments":{"z":1,"a":[true]}}},)"
            R"({"type":"function","function":{"name":"g","arguments":"not JSON"}}]};)"
            R"(tool:12{"tool_call_id":"c1"};assistant:x{"reasoning_content":"r"};)");
}

TEST(ApiRequest, TakesToolsUnlessTheyAreNotToBeUsed) {
  const std::string tools = R"(, "tools": [{"type": "function", "function": {"name": "f",
    "description": "d", "parameters": {"type": "object", "properties": {"b": {}, "a": {}}}}},
    {"type": "function", "function": {"name": "g"}}])";
  EXPECT_EQ(
      parsed(ApiShape::kChat, chat_body(tools + R"(, "tool_choice": "auto")")).order.tools.dump(),
      R"([{"type":"function","function":{"name":"f","description":"d","parameters":)"
      R"({"type":"object","properties":{"b":{},"a":{}}}}},{"type":"function","function":)"
      R"({"name":"g","parameters":{"type":"object","properties":{}}}}])");
  EXPECT_TRUE(parsed(ApiShape::kChat, chat_body(tools + R"(, "tool_choice": "none")"))
                  .order.tools.is_null());
  EXPECT_FALSE(parsed(ApiShape::kChat, chat_body(tools)).has_one_call);
  EXPECT_TRUE(
      parsed(ApiShape::kChat, chat_body(tools + R"(, "parallel_tool_calls": false)")).has_one_call);
  EXPECT_EQ(chat_refusal(R"(, "parallel_tool_calls": false)"), "taken");
  EXPECT_EQ(chat_refusal(R"(, "parallel_tool_calls": 1)"),
            "usage parallel_tool_calls: parallel_tool_calls is 1; wanted true or false");
  const auto forced = [&](const char* choice) {
    return parsed(ApiShape::kChat, chat_body(tools + R"(, "tool_choice": )" + choice))
        .forced_call.value_or("none is forced");
  };
  EXPECT_EQ(forced(R"("auto")"), "none is forced");
  EXPECT_EQ(forced(R"("required")"), "");
  EXPECT_EQ(forced(R"({"type": "function", "function": {"name": "g"}})"), "g");
  EXPECT_EQ(
      chat_refusal(tools + R"(, "tool_choice": "always")"),
      "usage tool_choice: tool_choice is \"always\"; wanted \"auto\", \"none\", \"required\" or "
      "a function of the tools");
  EXPECT_EQ(chat_refusal(tools + R"(, "tool_choice": {"type": "allowed_tools"})"),
            "usage tool_choice.type: tool_choice.type is \"allowed_tools\"; wanted \"function\"");
  EXPECT_EQ(chat_refusal(R"(, "tools": [{"type": "function", "function": {"name": 5}}])"),
            "usage tools[0].function.name: tools[0].function.name is 5; wanted a string");
  EXPECT_EQ(chat_refusal(R"(, "tools": [{"type": "retrieval"}])"),
            "usage tools[0].type: tools[0].type is \"retrieval\"; wanted \"function\"");
}

TEST(ApiRequest, TakesPromptsOfTextAndOfTokens) {
  const ApiRequest text =
      parsed(ApiShape::kCompletion, completion_body(R"(, "echo": true, "max_tokens": 0)"));
  EXPECT_EQ(text.order.text, "once");
  EXPECT_TRUE(text.echoes);
  EXPECT_EQ(text.order.n_predict, 0u);
  EXPECT_EQ(parsed(ApiShape::kCompletion, R"({"prompt": ["one"]})").order.text, "one");
  const ApiRequest tokens = parsed(ApiShape::kCompletion, R"({"prompt": [3, 0], "logprobs": 2})");
  EXPECT_EQ(tokens.order.tokens, (std::vector<engine::TokenId>{3, 0}));
  EXPECT_EQ(tokens.order.n_logprobs, 2u);
  const auto refusal = [](const char* body) { return refusal_of(ApiShape::kCompletion, body); };
  const std::string wanted = "; wanted a string that is not empty, or an array of tokens' ids";
  EXPECT_EQ(refusal("{}"), "usage prompt: prompt is missing" + wanted);
  EXPECT_EQ(refusal(R"({"prompt": ""})"), "usage prompt: prompt is \"\"" + wanted);
  EXPECT_EQ(refusal(R"({"prompt": []})"), "usage prompt: prompt is an array" + wanted);
  for (const char* const several :
       {R"({"prompt": ["a", "b"]})", R"({"prompt": [-1]})", R"({"prompt": [2147483648]})",
        R"({"prompt": [1.5]})", R"({"prompt": [[1], [2]]})"})
    EXPECT_NE(refusal(several).find("several prompts at once are not implemented"),
              std::string::npos)
        << several;
  EXPECT_EQ(refusal(R"({"prompt": [1], "echo": true})"),
            "usage echo: echo is true; wanted false where the prompt is tokens");
  EXPECT_EQ(refusal(R"({"prompt": "a", "echo": true, "logprobs": 1})"),
            "usage logprobs: logprobs is 1; wanted none with echo: a prompt's are not computed");
}

TEST(ApiRequest, RefusesWrongTypesAndRangesByName) {
  EXPECT_EQ(chat_refusal(R"(, "temperature": "hot")"),
            "usage temperature: temperature is \"hot\"; wanted a number from 0 to 100");
  EXPECT_EQ(chat_refusal(R"(, "top_p": 1.01)"),
            "usage top_p: top_p is 1.01; wanted a number from 0 to 1");
  EXPECT_EQ(chat_refusal(R"(, "max_tokens": 1.5)"),
            "usage max_tokens: max_tokens is 1.5; wanted an integer from -1 to 1099511627776");
  EXPECT_EQ(chat_refusal(R"(, "max_tokens": 18446744073709551615)"),
            "usage max_tokens: max_tokens is 18446744073709551615; wanted an integer from -1 to "
            "1099511627776");
  EXPECT_EQ(chat_refusal(R"(, "stream": 1)"), "usage stream: stream is 1; wanted true or false");
  EXPECT_EQ(chat_refusal(R"(, "logit_bias": {"x1": 1})"),
            "usage logit_bias: logit_bias has the key \"x1\"; wanted a token's id");
  EXPECT_EQ(chat_refusal(R"(, "logit_bias": {"1": 101})"),
            "usage logit_bias.1: logit_bias.1 is 101; wanted a number from -100 to 100");
  EXPECT_EQ(chat_refusal(R"(, "logit_bias": [1])"),
            "usage logit_bias: logit_bias is an array; wanted an object");
  EXPECT_EQ(chat_refusal(R"(, "repeat_penalty": 0)"),
            "usage repeat_penalty: repeat_penalty is 0; wanted a number above 0");
  for (const char* const stop : {R"("")", "[\"\"]", "[1]", "{}", "5"})
    EXPECT_TRUE(
        chat_refusal(std::string(R"(, "stop": )") + stop).starts_with("usage stop: stop is"))
        << stop;
  const std::string longest(1024, 'x');
  const auto stops = [](size_t n, const std::string& text) {
    return chat_refusal(", \"stop\": " + nlohmann::json(std::vector(n, text)).dump());
  };
  EXPECT_EQ(stops(64, longest), "taken");
  EXPECT_EQ(
      stops(65, "x"),
      "usage stop: stop is an array; wanted a string of 1 to 1024 bytes, or up to 64 of them");
  EXPECT_TRUE(stops(1, longest + "x").starts_with("usage stop: stop is"));
  EXPECT_TRUE(chat_refusal(", \"stop\": \"" + longest + "x\"").starts_with("usage stop: "));
  EXPECT_EQ(chat_refusal(R"(, "top_logprobs": 2)"),
            "usage top_logprobs: top_logprobs is 2; wanted logprobs to be true with it");
  EXPECT_EQ(chat_refusal(R"(, "stream_options": {})"),
            "usage stream_options: stream_options is an object; wanted stream to be true with it");
}

TEST(ApiRequest, RefusesWhatItDoesNotImplementUnlessItChangesNothing) {
  EXPECT_EQ(chat_refusal(R"(, "n": 2)"), "usage n: n is 2, which is not implemented");
  EXPECT_EQ(chat_refusal(R"(, "n": 1, "suffix": "", "typical_p": 1.0, "mirostat": 0,
    "functions": [], "audio": null, "user": "u", "store": true)"),
            "taken");
  EXPECT_EQ(chat_refusal(R"(, "grammar": "root ::= x")"),
            "usage grammar: grammar is \"root ::= x\", which is not implemented");
  EXPECT_EQ(chat_refusal(R"(, "chat_template": "{{ 1 }}")"),
            "usage chat_template: chat_template is \"{{ 1 }}\", which is not implemented");
  EXPECT_EQ(chat_refusal(R"(, "chat_template_kwargs": {"bos_token": "x"})"),
            "usage chat_template_kwargs.bos_token: chat_template_kwargs sets bos_token, which the "
            "request has itself");
}

TEST(ApiRequest, TakesSchemasOfAnswers) {
  const auto schema = [](const char* format) {
    return parsed(ApiShape::kChat, chat_body(std::string(R"(, "response_format": )") + format))
        .order.answer_schema.dump();
  };
  EXPECT_EQ(schema(R"({"type": "text"})"), "null");
  EXPECT_EQ(schema(R"({"type": "json_object"})"), R"({"type":"object"})");
  EXPECT_EQ(schema(R"({"type": "json_object", "schema": {"enum": [1]}})"), R"({"enum":[1]})");
  EXPECT_EQ(schema(R"({"type": "json_schema", "json_schema": {"name": "n", "strict": true,
    "schema": {"type": "object", "properties": {"b": {}, "a": {}}}}})"),
            R"({"type":"object","properties":{"b":{},"a":{}}})");
  EXPECT_EQ(chat_refusal(R"(, "response_format": {"type": "json_object", "schema":
    {"type": "string", "pattern": "x"}})"),
            "usage response_format: the schema's #/pattern is not supported here");
  EXPECT_EQ(chat_refusal(R"(, "response_format": {"type": "json_schema", "json_schema": {}})"),
            "usage response_format.json_schema.schema: response_format.json_schema.schema is "
            "missing; wanted an object");
  EXPECT_EQ(chat_refusal(R"(, "response_format": {"type": "xml"})"),
            "usage response_format.type: response_format.type is \"xml\"; wanted text, "
            "json_object or json_schema");
  EXPECT_EQ(chat_refusal(R"(, "response_format": {"type": "json_object"}, "tools":
    [{"type": "function", "function": {"name": "f"}}])"),
            "usage tools: tools is an array; wanted none with a response_format of JSON, in which "
            "no call can be written");
  EXPECT_EQ(chat_refusal(R"(, "response_format": {"type": "json_object"}, "ignore_eos": true)"),
            "usage ignore_eos: ignore_eos is true; wanted false with a response_format of JSON");
}

TEST(ApiRequest, RefusesMessagesThatATemplateCannotBeGiven) {
  EXPECT_EQ(refusal_of(ApiShape::kChat, "{}"),
            "usage messages: messages is missing; wanted an array of at least one message");
  EXPECT_EQ(messages_refusal("[]"),
            "usage messages: messages is an array; wanted an array of at least one message");
  EXPECT_EQ(messages_refusal("[5]"), "usage messages[0]: messages[0] is 5; wanted an object");
  EXPECT_EQ(messages_refusal(R"([{"role": "wizard", "content": "x"}])"),
            "usage messages[0].role: messages[0].role is \"wizard\"; wanted system, developer, "
            "user, assistant or tool");
  EXPECT_EQ(messages_refusal(R"([{"role": "user"}])"),
            "usage messages[0].content: messages[0].content is missing; wanted a string or an "
            "array of text parts");
  EXPECT_EQ(messages_refusal(R"([{"role": "user", "content": [{"type": "text", "text": "a"},
    {"type": "image_url", "image_url": {"url": "data:"}}]}])"),
            "usage messages[0].content[1]: messages[0].content[1] is of type \"image_url\"; "
            "wanted text");
  EXPECT_EQ(messages_refusal(R"([{"role": "assistant", "tool_calls": [{"function": {}}]}])"),
            "usage messages[0].tool_calls[0].function.name: messages[0].tool_calls[0].function."
            "name is missing; wanted a string that is not empty");
}

TEST(ApiRequest, RefusesWhatIsNoBoundedJson) {
  const auto refusal = [](const std::string& body) { return refusal_of(ApiShape::kChat, body); };
  EXPECT_EQ(refusal(""), "usage : the body is no JSON at byte 1");
  EXPECT_EQ(refusal("[]"), "usage : the body is an array; wanted an object");
  EXPECT_EQ(refusal("{\"a\": NaN}"), "usage : the body is no JSON at byte 7");
  EXPECT_EQ(refusal("{\"temperature\": 1e999}"),
            "usage : the body has a number beyond the range of a double");
  EXPECT_EQ(refusal("{\"a\": \"\xC3\x28\"}"), "bad_text : the body is not UTF-8 at byte 7");
  EXPECT_EQ(refusal(R"({"a": "\ud800"})").substr(0, 30), "usage : the body is no JSON at");
  EXPECT_EQ(refusal(R"({"a": 1, "b": {"a": 2, "a": 3}})"),
            "usage a: the key \"a\" comes twice in one object");
  const std::string opened(64, '[');
  EXPECT_EQ(refusal("{\"a\": " + opened + std::string(64, ']') + "}"),
            "usage : the body nests deeper than 64 levels");
  EXPECT_EQ(refusal("{\"messages\": " + std::string(1 << 20, '[')),
            "usage : the body nests deeper than 64 levels");
  std::string keys;
  for (int i = 0; i < 1100; ++i) keys += fmt::format(R"(, "k{}": 1)", i);
  EXPECT_EQ(chat_refusal(keys),
            "usage : the body has more keys than 1024 in an object or 131072 in all");
  const auto repeated = [](const std::string& value) {
    std::string body = R"({"prompt": [)" + value;
    for (int i = 0; i < 1 << 16; ++i) body += "," + value;
    return refusal_of(ApiShape::kCompletion, body + "]}");
  };
  for (const char* const value : {"[]", "{}", "\"\""})
    EXPECT_EQ(repeated(value),
              "usage : the body has more values than 16777216 numbers or 65536 texts, arrays and "
              "objects")
        << value;
  EXPECT_EQ(repeated("7"), "taken");
}

}  // namespace
}  // namespace strata::serve
