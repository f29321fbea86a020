// Bodies and streams of answers, in each dialect, from scripted events.
#include "tools/serve/api_response.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <set>

#include "engine/template/chat_template.h"
#include "tests/serve/api_fixture.h"
#include "tools/serve/response_shape.h"

namespace strata::serve {
namespace {

using nlohmann::ordered_json;
using testing::chat_body;
using testing::completion_body;
using testing::messages_body;
using testing::parsed;

const ApiIdentity kIdentity = {"77", "m", 1234, ToolCallStyle::kHermes};
const std::string kTools = R"(, "tools": [{"type": "function", "function": {"name": "f"}}])";

AnswerEvent prompt_event() {
  AnswerEvent event;
  event.n_read = 40;
  event.n_prompt = 100;
  event.n_cached = 30;
  return event;
}

AnswerEvent text_event(const std::string& text, std::vector<ScoredToken> tokens = {}) {
  AnswerEvent event;
  event.kind = AnswerEvent::Kind::kText;
  event.text = text;
  event.tokens = std::move(tokens);
  return event;
}

AnswerEvent end_event(engine::FinishReason reason = engine::FinishReason::kStop,
                      const std::string& stop_text = "") {
  AnswerEvent event;
  event.kind = AnswerEvent::Kind::kEnd;
  event.finish_reason = reason;
  event.stop_text = stop_text;
  event.usage = {100, 30, 2, 5};
  event.times.prefill_ms = 35;
  event.times.decode_ms = 8;
  event.times.n_decode_tokens = event.times.n_decode_steps = 4;
  return event;
}

AnswerEvent error_event() {
  AnswerEvent event;
  event.kind = AnswerEvent::Kind::kError;
  event.error = Error(ErrorCode::kIo, "the disk is gone", "/dev/x", "Look at it.");
  return event;
}

/// What a client receives, pushed and finished; status() too where it is no 200.
std::string answer_of(const ApiRequest& request, const std::vector<AnswerEvent>& events) {
  const auto response = make_response(request, kIdentity);
  std::string out;
  for (const AnswerEvent& event : events) {
    const std::string bytes = response->push(event);
    EXPECT_TRUE(request.is_streamed || bytes.empty());
    out += bytes;
  }
  out += response->finish();
  return (response->status() == 200 ? "" : std::to_string(response->status()) + " ") + out;
}

ordered_json body_of(const ApiRequest& request, const std::vector<AnswerEvent>& events) {
  return ordered_json::parse(answer_of(request, events));
}

/// The data of a stream's events, without what all of them have.
std::vector<ordered_json> chunks_of(std::string_view stream) {
  std::vector<ordered_json> out;
  while (!stream.empty()) {
    const size_t end = stream.find("\n\n");
    if (!stream.starts_with("data: ") || end == std::string_view::npos) {
      ADD_FAILURE() << stream;
      break;
    }
    const std::string_view data = stream.substr(6, end - 6);
    stream.remove_prefix(end + 2);
    if (data == "[DONE]") {
      EXPECT_TRUE(stream.empty());
      out.emplace_back("[DONE]");
      continue;
    }
    out.push_back(ordered_json::parse(data));
    for (const char* const key : {"id", "object", "created", "model"}) out.back().erase(key);
  }
  return out;
}

ScoredToken scored(engine::TokenId id, const std::string& bytes, double logprob) {
  return {{id, bytes, logprob}, {{id, bytes, logprob}, {9, "z", -INFINITY}}};
}

TEST(ChatResponse, IsOneBody) {
  const ApiRequest request = parsed(ApiShape::kChat, chat_body());
  const std::string body = answer_of(
      request, {prompt_event(), text_event("Hi \xF0\x9F\x98\x80"), text_event("!"), end_event()});
  EXPECT_EQ(body,
            "{\"id\":\"chatcmpl-77\",\"object\":\"chat.completion\",\"created\":1234,\"model\":"
            "\"m\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
            "\"Hi \xF0\x9F\x98\x80!\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":"
            "\"stop\"}],\"usage\":{\"prompt_tokens\":100,\"completion_tokens\":5,\"total_tokens\":"
            "105,\"prompt_tokens_details\":{\"cached_tokens\":30,\"recomputed_tokens\":2}},"
            "\"timings\":{\"cache_n\":30,\"prompt_n\":70,\"prompt_ms\":35.0,\"prompt_per_second\":"
            "2000.0,\"predicted_n\":5,\"predicted_ms\":8.0,\"predicted_per_second\":500.0}}");
  const ordered_json cut =
      body_of(request, {text_event("a"), end_event(engine::FinishReason::kLength)});
  EXPECT_EQ(cut["choices"][0]["finish_reason"], "length");
  const ordered_json empty = body_of(request, {end_event()});
  EXPECT_EQ(empty["choices"][0]["message"]["content"], "");
}

TEST(ChatResponse, StreamsItsRoleFirstAndUsageLast) {
  const ApiRequest request = parsed(
      ApiShape::kChat, chat_body(R"(, "stream": true, "stream_options": {"include_usage": true})"));
  const std::string stream =
      answer_of(request, {prompt_event(), text_event("a"), text_event(""), end_event()});
  EXPECT_TRUE(stream.starts_with(
      R"(data: {"id":"chatcmpl-77","object":"chat.completion.chunk","created":1234,"model":"m",)"));
  const auto chunks = chunks_of(stream);
  ASSERT_EQ(chunks.size(), 5u);
  EXPECT_EQ(chunks[0].dump(),
            R"({"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,)"
            R"("finish_reason":null}],"usage":null})");
  EXPECT_EQ(chunks[1].dump(), R"({"choices":[{"index":0,"delta":{"content":"a"},"logprobs":null,)"
                              R"("finish_reason":null}],"usage":null})");
  EXPECT_EQ(chunks[2]["choices"].dump(),
            R"([{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}])");
  EXPECT_EQ(chunks[2]["timings"]["cache_n"], 30);
  EXPECT_EQ(chunks[3]["choices"].dump(), "[]");
  EXPECT_EQ(chunks[3]["usage"]["prompt_tokens_details"]["cached_tokens"], 30);
  EXPECT_EQ(chunks[4], "[DONE]");
}

TEST(ChatResponse, TellsHowMuchOfThePromptIsReadWhereThatIsAsked) {
  const ApiRequest request =
      parsed(ApiShape::kChat, chat_body(R"(, "stream": true, "return_progress": true)"));
  const auto chunks = chunks_of(answer_of(request, {prompt_event(), text_event("a"), end_event()}));
  ASSERT_EQ(chunks.size(), 5u);
  EXPECT_EQ(chunks[0].dump(),
            R"({"choices":[],"prompt_progress":{"total":100,"cache":30,"processed":40}})");
  EXPECT_FALSE(chunks[1].contains("usage"));
}

TEST(ChatResponse, TellsLogprobsWithExactBytes) {
  const std::string fields = R"(, "logprobs": true, "top_logprobs": 2)";
  const std::vector<AnswerEvent> events = {text_event("", {scored(5, "\xC3", -0.5)}),
                                           text_event("\xC3\xA9", {scored(6, "\xA9", -1)}),
                                           end_event()};
  const ordered_json whole = body_of(parsed(ApiShape::kChat, chat_body(fields)), events);
  const ordered_json& logprobs = whole["choices"][0]["logprobs"];
  ASSERT_EQ(logprobs["content"].size(), 2u);
  EXPECT_EQ(logprobs["content"][0].dump(),
            "{\"token\":\"\xEF\xBF\xBD\",\"logprob\":-0.5,\"bytes\":[195],\"top_logprobs\":["
            "{\"token\":\"\xEF\xBF\xBD\",\"logprob\":-0.5,\"bytes\":[195]},"
            "{\"token\":\"z\",\"logprob\":-9999.0,\"bytes\":[122]}]}");
  const auto chunks = chunks_of(
      answer_of(parsed(ApiShape::kChat, chat_body(fields + R"(, "stream": true)")), events));
  ASSERT_EQ(chunks.size(), 5u);
  EXPECT_EQ(chunks[1]["choices"][0]["delta"].dump(), "{}");
  EXPECT_EQ(chunks[1]["choices"][0]["logprobs"]["content"][0]["bytes"].dump(), "[195]");
  EXPECT_EQ(chunks[2]["choices"][0]["logprobs"]["content"][0]["bytes"].dump(), "[169]");
  EXPECT_TRUE(chunks[3]["choices"][0]["logprobs"].is_null());
}

const std::vector<AnswerEvent> kCalling = {
    prompt_event(), text_event("Look.\n<tool_"),
    text_event("call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>"), end_event()};

TEST(ChatResponse, HasCallsWhereToolsWereGiven) {
  const ordered_json body = body_of(parsed(ApiShape::kChat, chat_body(kTools)), kCalling);
  EXPECT_EQ(body["choices"].dump(),
            R"([{"index":0,"message":{"role":"assistant","content":"Look.","refusal":null,)"
            R"("tool_calls":[{"id":"TzUHAPV9I","type":"function","function":{"name":"f",)"
            R"("arguments":"{\"a\":1}"}}]},"logprobs":null,"finish_reason":"tool_calls"}])");
  const auto chunks = chunks_of(
      answer_of(parsed(ApiShape::kChat, chat_body(kTools + R"(, "stream": true)")), kCalling));
  ASSERT_EQ(chunks.size(), 5u);
  EXPECT_EQ(chunks[1]["choices"][0]["delta"].dump(), R"({"content":"Look."})");
  EXPECT_EQ(chunks[2]["choices"][0]["delta"].dump(),
            R"({"tool_calls":[{"id":"TzUHAPV9I","type":"function","function":{"name":"f",)"
            R"("arguments":"{\"a\":1}"},"index":0}]})");
  EXPECT_EQ(chunks[3]["choices"][0]["finish_reason"], "tool_calls");
  const ordered_json without = body_of(parsed(ApiShape::kChat, chat_body()), kCalling);
  EXPECT_EQ(without["choices"][0]["finish_reason"], "stop");
  EXPECT_FALSE(without["choices"][0]["message"].contains("tool_calls"));
}

const std::vector<AnswerEvent> kCallingTwice = {
    text_event("<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>"),
    text_event("<tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>"), end_event()};

TEST(ChatResponse, GivesTheFirstOfSeveralCallsWhereOneIsWanted) {
  const auto n_calls = [](const std::string& more) {
    const ordered_json body =
        body_of(parsed(ApiShape::kChat, chat_body(kTools + more)), kCallingTwice);
    EXPECT_EQ(body["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "f");
    EXPECT_EQ(body["choices"][0]["finish_reason"], "tool_calls");
    return body["choices"][0]["message"]["tool_calls"].size();
  };
  EXPECT_EQ(n_calls(""), 2u);
  EXPECT_EQ(n_calls(R"(, "parallel_tool_calls": false)"), 1u);
  const std::string streamed =
      answer_of(parsed(ApiShape::kChat, chat_body(kTools + R"(, "stream": true,
        "parallel_tool_calls": false)")),
                kCallingTwice);
  EXPECT_NE(streamed.find(R"("name":"f")"), std::string::npos);
  EXPECT_EQ(streamed.find(R"("name":"g")"), std::string::npos);
}

TEST(ChatResponse, CallsHaveNamesThatEveryTemplateTakes) {
  ApiIdentity other = kIdentity;
  other.id = "78";
  std::set<std::string> ids;
  for (size_t i = 0; i < 100; ++i) {
    ids.insert(call_id(kIdentity, i));
    ids.insert(call_id(other, i));
  }
  EXPECT_EQ(ids.size(), 200u);
  for (const std::string& id : ids)
    EXPECT_TRUE(id.size() == 9 &&
                std::ranges::all_of(id, [](unsigned char c) { return std::isalnum(c) != 0; }))
        << id;
  // As Mistral's templates have it.
  const auto model = engine::ChatTemplate::parse(
      "{%- for message in messages %}{%- for tool_call in message.tool_calls %}"
      "{%- if not tool_call.id is defined or tool_call.id|length != 9 %}"
      "{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}"
      "{%- endif %}{{- tool_call.function.name }}{%- endfor %}{%- endfor %}");
  const ordered_json answered =
      body_of(parsed(ApiShape::kChat, chat_body(kTools)), kCallingTwice)["choices"][0]["message"];
  const ApiRequest next = parsed(ApiShape::kChat, ordered_json{{"messages", {answered}}}.dump());
  EXPECT_EQ(model.render(next.order.messages, {}), "fg");
}

TEST(ChatResponse, EndsWithTheErrorThatEndedIt) {
  const std::string error =
      R"({"error":{"message":"the disk is gone. Look at it.","type":"server_error",)"
      R"("param":null,"code":"io"}})";
  EXPECT_EQ(answer_of(parsed(ApiShape::kChat, chat_body()), {text_event("a"), error_event()}),
            "500 " + error);
  const std::string stream = answer_of(parsed(ApiShape::kChat, chat_body(R"(, "stream": true)")),
                                       {text_event("a"), error_event()});
  EXPECT_TRUE(stream.ends_with("data: " + error + "\n\n")) << stream;
  EXPECT_TRUE(answer_of(parsed(ApiShape::kChat, chat_body()),
                        {text_event("a"), end_event(engine::FinishReason::kCancelled)})
                  .starts_with("503 {\"error\":"));
}

TEST(CompletionResponse, StandsBehindItsPromptWhereThatIsEchoed) {
  const ordered_json body = body_of(parsed(ApiShape::kCompletion, completion_body()),
                                    {text_event(" upon"), text_event(" a"), end_event()});
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["id"], "cmpl-77");
  EXPECT_EQ(body["choices"].dump(),
            R"([{"text":" upon a","index":0,"logprobs":null,"finish_reason":"stop"}])");
  const std::string echo = R"(, "echo": true)";
  EXPECT_EQ(body_of(parsed(ApiShape::kCompletion, completion_body(echo)),
                    {text_event(" upon"), end_event()})["choices"][0]["text"],
            "once upon");
  const auto chunks = chunks_of(
      answer_of(parsed(ApiShape::kCompletion, completion_body(echo + R"(, "stream": true)")),
                {text_event(" upon"), end_event(engine::FinishReason::kLength)}));
  ASSERT_EQ(chunks.size(), 4u);
  EXPECT_EQ(chunks[0]["choices"][0]["text"], "once");
  EXPECT_EQ(chunks[1]["choices"][0]["text"], " upon");
  EXPECT_EQ(chunks[2]["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(chunks[3], "[DONE]");
}

TEST(CompletionResponse, TellsLogprobsInLists) {
  const std::vector<AnswerEvent> events = {
      text_event("x\xC3\xA9", {scored(5, "x\xC3", -0.5), scored(6, "\xA9", -1)}),
      text_event("y", {scored(7, "y", -2)}), end_event()};
  const ordered_json body =
      body_of(parsed(ApiShape::kCompletion, completion_body(R"(, "logprobs": 2)")), events);
  EXPECT_EQ(body["choices"][0]["logprobs"].dump(),
            R"({"tokens":["bytes:\\x78\\xc3","bytes:\\xa9","y"],"token_logprobs":[-0.5,-1.0,-2.0],)"
            R"("top_logprobs":[{"bytes:\\x78\\xc3":-0.5,"z":-9999.0},)"
            R"({"bytes:\\xa9":-1.0,"z":-9999.0},{"y":-2.0,"z":-9999.0}],"text_offset":[0,2,2]})");
  const auto chunks = chunks_of(answer_of(
      parsed(ApiShape::kCompletion, completion_body(R"(, "logprobs": 0, "stream": true)")),
      events));
  EXPECT_EQ(chunks[1]["choices"][0]["logprobs"]["text_offset"].dump(), "[2]");
}

TEST(MessagesResponse, IsOneBody) {
  const ApiRequest plain = parsed(ApiShape::kMessages, messages_body());
  EXPECT_EQ(answer_of(plain, {prompt_event(), text_event("Hi"), end_event()}),
            R"({"id":"msg_77","type":"message","role":"assistant","model":"m","content":[{"type":)"
            R"("text","text":"Hi"}],"stop_reason":"end_turn","stop_sequence":null,"usage":)"
            R"({"input_tokens":70,"cache_creation_input_tokens":0,"cache_read_input_tokens":30,)"
            R"("output_tokens":5}})");
  const ordered_json stopped =
      body_of(plain, {text_event("a"), end_event(engine::FinishReason::kStop, "END")});
  EXPECT_EQ(stopped["stop_reason"], "stop_sequence");
  EXPECT_EQ(stopped["stop_sequence"], "END");
  EXPECT_EQ(body_of(plain, {end_event(engine::FinishReason::kLength)})["stop_reason"],
            "max_tokens");
  const ordered_json called = body_of(
      parsed(ApiShape::kMessages, messages_body(R"(, "tools": [{"name": "f"}])")), kCalling);
  EXPECT_EQ(called["content"].dump(),
            R"([{"type":"text","text":"Look."},{"type":"tool_use","id":"TzUHAPV9I","name":"f",)"
            R"("input":{"a":1}}])");
  EXPECT_EQ(called["stop_reason"], "tool_use");
  EXPECT_EQ(answer_of(plain, {error_event()}),
            R"(500 {"type":"error","error":{"type":"api_error","message":)"
            R"("the disk is gone. Look at it."}})");
}

TEST(MessagesResponse, StreamsItsBlocks) {
  const ApiRequest request =
      parsed(ApiShape::kMessages, messages_body(R"(, "stream": true, "tools": [{"name": "f"}])"));
  EXPECT_EQ(
      answer_of(request, kCalling),
      "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_77\","
      "\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m\",\"content\":[],"
      "\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":70,"
      "\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":30,\"output_tokens\":0}}}\n\n"
      "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,"
      "\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n"
      "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":"
      "{\"type\":\"text_delta\",\"text\":\"Look.\"}}\n\n"
      "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n"
      "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,"
      "\"content_block\":{\"type\":\"tool_use\",\"id\":\"TzUHAPV9I\",\"name\":\"f\",\"input\":{}}}"
      "\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,"
      "\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"a\\\":1}\"}}\n\n"
      "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":1}\n\n"
      "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":"
      "\"tool_use\",\"stop_sequence\":null},\"usage\":{\"input_tokens\":70,"
      "\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":30,\"output_tokens\":5}}\n\n"
      "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
  const std::string failed = answer_of(request, {text_event("a"), error_event()});
  EXPECT_TRUE(
      failed.ends_with("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":"
                       "\"api_error\",\"message\":\"the disk is gone. Look at it.\"}}\n\n"))
      << failed;
}

}  // namespace
}  // namespace strata::serve
