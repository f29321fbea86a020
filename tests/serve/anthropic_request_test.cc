// Bodies of Anthropic's messages, and refusals in both dialects.
#include <gtest/gtest.h>

#include "engine/context_size.h"
#include "tests/serve/api_fixture.h"
#include "tools/serve/api_request.h"

namespace strata::serve {
namespace {

using testing::messages_body;
using testing::parsed;
using testing::refusal_of;

std::string refusal(const std::string& body) { return refusal_of(ApiShape::kMessages, body); }

TEST(AnthropicRequest, TakesItsFields) {
  const ApiRequest request = parsed(ApiShape::kMessages, messages_body(R"(, "model": "m",
    "system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
               {"type": "text", "text": "b"}],
    "temperature": 0.5, "top_p": 0.25, "top_k": 3, "stop_sequences": ["x"], "stream": true,
    "metadata": {"user_id": "u"}, "tool_choice": {"type": "auto"}, "tools": [{"name": "f",
      "description": "d", "input_schema": {"type": "object"}}])"));
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(request.order.n_predict, 9u);
  ASSERT_EQ(request.order.messages.size(), 2u);
  EXPECT_EQ(request.order.messages[0].role, "system");
  EXPECT_EQ(request.order.messages[0].content, "a\nb");
  EXPECT_EQ(request.order.sampler.temperature, 0.5);
  EXPECT_EQ(request.order.sampler.top_p, 0.25);
  EXPECT_EQ(request.order.sampler.top_k, 3u);
  EXPECT_EQ(request.order.stop, std::vector<std::string>{"x"});
  EXPECT_TRUE(request.is_streamed);
  EXPECT_FALSE(request.has_one_call);
  EXPECT_TRUE(parsed(ApiShape::kMessages, messages_body(R"(, "tool_choice": {"type": "auto",
    "disable_parallel_tool_use": true})"))
                  .has_one_call);
  EXPECT_EQ(request.order.tools.dump(),
            R"([{"type":"function","function":{"name":"f","description":"d","parameters":)"
            R"({"type":"object"}}}])");
}

TEST(AnthropicRequest, SplitsBlocksIntoTheMessagesOfATemplate) {
  const ApiRequest request = parsed(ApiShape::kMessages, R"({"max_tokens": 1, "messages": [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": "s"},
      {"type": "text", "text": "let me"},
      {"type": "tool_use", "id": "u1", "name": "f", "input": {"b": 1, "a": 2}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "u1", "content":
      [{"type": "text", "text": "12"}]}, {"type": "text", "text": "and now"}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "u2"}]}]})");
  std::string out;
  for (const auto& message : request.order.messages)
    out +=
        message.role + ":" + message.content + (message.fields ? message.fields->dump() : "") + ";";
  EXPECT_EQ(out, R"(user:q;assistant:let me{"tool_calls":[{"id":"u1","type":"function","function":)"
                 R"({"name":"f","arguments":{"b":1,"a":2}}}],"reasoning_content":"t"};)"
                 R"(tool:12{"tool_call_id":"u1"};user:and now;tool:{"tool_call_id":"u2"};)");
}

/// What agents send that write code.
TEST(AnthropicRequest, TellsTheTemplateWhetherToThinkAndIgnoresWhatChangesNoAnswer) {
  const auto values = [](const std::string& more) {
    return parsed(ApiShape::kMessages, messages_body(", " + more)).order.template_values.dump();
  };
  EXPECT_EQ(values(R"("thinking": {"type": "enabled", "budget_tokens": 5000})"),
            R"({"enable_thinking":true,"thinking":true})");
  EXPECT_EQ(values(R"("thinking": {"type": "disabled"})"),
            R"({"enable_thinking":false,"thinking":false})");
  EXPECT_EQ(values(R"("thinking": {"type": "adaptive"})"), "null");
  EXPECT_EQ(values(R"("output_config": {"effort": "high"})"), R"({"reasoning_effort":"high"})");
  EXPECT_EQ(values(R"("metadata": {"user_id": "u"}, "service_tier": "auto", "context_management":
    {"edits": [{"type": "clear_tool_uses_20250919"}]}, "output_config": {"format": null})"),
            "null");
}

TEST(AnthropicRequest, RefusesByName) {
  EXPECT_EQ(refusal(R"({"messages": [{"role": "user", "content": "x"}]})"),
            "usage max_tokens: max_tokens is missing; wanted the most tokens of the answer");
  EXPECT_EQ(refusal(messages_body(R"(, "thinking": {"type": "loud"})")),
            "usage thinking.type: thinking.type is \"loud\"; wanted enabled, disabled or adaptive");
  EXPECT_EQ(
      refusal(messages_body(R"(, "output_config": {"format": {"type": "json_schema"}})")),
      "usage output_config.format: output_config.format is an object, which is not implemented");
  EXPECT_EQ(refusal(messages_body(R"(, "mcp_servers": [{"type": "url"}])")),
            "usage mcp_servers: mcp_servers is an array, which is not implemented");
  EXPECT_EQ(refusal(messages_body(R"(, "temperature": 1.5)")),
            "usage temperature: temperature is 1.5; wanted a number from 0 to 1");
  EXPECT_EQ(refusal(messages_body(R"(, "tool_choice": {"type": "some"})")),
            "usage tool_choice.type: tool_choice.type is \"some\"; wanted auto, none, any or tool");
  EXPECT_EQ(refusal(R"({"max_tokens": 1, "messages": [{"role": "system", "content": "x"}]})"),
            "usage messages[0].role: messages[0].role is \"system\"; wanted user or assistant");
  EXPECT_EQ(refusal(R"({"max_tokens": 1, "messages": [{"role": "user", "content": "x"},
    {"role": "assistant", "content": "The"}]})"),
            "usage messages[1].role: the last message is the assistant's; that an answer goes on "
            "from it is not implemented");
  EXPECT_EQ(refusal(R"({"max_tokens": 1, "messages": [{"role": "user", "content": [
    {"type": "image", "source": {}}]}]})"),
            "usage messages[0].content[0]: messages[0].content[0] is of type \"image\"; wanted "
            "text");
}

TEST(ApiError, HasTheStatusOfItsCauseAndBothNumbersOfALongPrompt) {
  const engine::ContextLengthError too_long(5000, 4096, "raise the context to at least -c 5024");
  const ApiError error = api_error(too_long);
  EXPECT_EQ(error.status, 400);
  EXPECT_EQ(error.type, "invalid_request_error");
  EXPECT_EQ(error.code, "context_length_exceeded");
  EXPECT_EQ(error.param, "prompt");
  EXPECT_NE(error.message.find("5000"), std::string::npos);
  EXPECT_NE(error.message.find("exceeds the available context size of 4096"), std::string::npos);
  EXPECT_NE(error.message.find("-c 5024"), std::string::npos);
  const auto status = [](ErrorCode code) { return api_error(Error(code, "m", "w", "r")).status; };
  EXPECT_EQ(status(ErrorCode::kUsage), 400);
  EXPECT_EQ(status(ErrorCode::kBadText), 400);
  EXPECT_EQ(status(ErrorCode::kTemplate), 400);
  EXPECT_EQ(status(ErrorCode::kBusy), 429);
  EXPECT_EQ(status(ErrorCode::kBadFile), 500);
  EXPECT_EQ(status(ErrorCode::kIo), 500);
  EXPECT_EQ(status(ErrorCode::kUnsupported), 501);
  for (const ErrorCode code : {ErrorCode::kDoesNotFit, ErrorCode::kOutOfMemory,
                               ErrorCode::kNoDevice, ErrorCode::kDeviceLost, ErrorCode::kCancelled})
    EXPECT_EQ(status(code), 503);
}

TEST(ApiError, TellsNoPlaceOfTheServersOwn) {
  EXPECT_EQ(api_error(Error(ErrorCode::kIo, "m", "/secret/file", "r")).param, "");
  EXPECT_EQ(api_error(Error(ErrorCode::kUsage, "m", "--logit-bias", "r")).param, "");
  EXPECT_EQ(api_error(Error(ErrorCode::kTemplate, "m", "chat template, line 3", "r")).param, "");
}

TEST(ApiError, IsWrittenAsEachDialectHasIt) {
  const ApiError error = api_error(Error(ErrorCode::kUsage, "n is 2\xFF", "n", "Ask once."));
  EXPECT_EQ(error_body(ApiShape::kChat, error),
            "{\"error\":{\"message\":\"n is 2\xEF\xBF\xBD. Ask once.\",\"type\":"
            "\"invalid_request_error\",\"param\":\"n\",\"code\":\"usage\"}}");
  EXPECT_EQ(error_body(ApiShape::kMessages, error),
            "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":"
            "\"n is 2\xEF\xBF\xBD. Ask once.\"}}");
  ApiError wordless;
  wordless.status = 503;
  wordless.type = "server_error";
  EXPECT_EQ(error_body(ApiShape::kCompletion, wordless),
            R"({"error":{"message":"","type":"server_error","param":null,"code":null}})");
  EXPECT_EQ(error_body(ApiShape::kMessages, wordless),
            R"({"type":"error","error":{"type":"overloaded_error","message":""}})");
}

}  // namespace
}  // namespace strata::serve
