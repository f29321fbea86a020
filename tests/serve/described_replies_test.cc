// Replies of every route over real sockets, each as openapi.json describes its status: answers,
// whole and streamed, and refusals of every kind.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/error.h"
#include "tests/serve/described.h"
#include "tests/serve/json_schema.h"
#include "tests/serve/scripted_service.h"
#include "tests/serve/socket_client.h"
#include "tools/serve/http_server.h"
#include "tools/serve/serve_app.h"

namespace strata::serve {
namespace {

using nlohmann::json;
using testing::described;
using testing::Reply;
using testing::ScriptedService;
using testing::SocketClient;

struct Operation {
  std::string method;  // "GET"
  std::string path;    // as the description has it
  const json& of;

  bool is_post() const { return method == "POST"; }
  bool is_open() const { return of.contains("security"); }
  std::string target() const { return path == "/slots/{id}" ? "/slots/3?action=save" : path; }
  /// A body that is taken.
  std::string body() const {
    static const std::map<std::string, std::string> kBodies = {
        {"/slots/{id}", R"({"filename": "notes"})"},
        {"/tokenize", R"({"content": "ab", "add_special": true})"},
        {"/detokenize", R"({"tokens": [97, 98]})"},
        {"/v1/completions", R"({"prompt": "once"})"}};
    const auto own = kBodies.find(path);
    if (own != kBodies.end()) return own->second;
    return is_post() ? R"({"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]})" : "";
  }
};

std::vector<Operation> operations() {
  std::vector<Operation> all;
  for (const auto& [path, methods] : described()["paths"].items())
    for (const auto& [method, operation] : methods.items())
      all.push_back({method == "get" ? "GET" : "POST", path, operation});
  return all;
}

const json& resolved(const json& value) {
  return value.contains("$ref") ? *testing::referred(described(), value["$ref"]) : value;
}

std::string fault_of(const json& schema, const json& value) {
  return testing::schema_fault(described(), schema, value, testing::Unnamed::kNothing);
}

/// The data of each event, as the media type says.
std::string stream_fault(const json& media, std::string_view stream) {
  size_t n_events = 0;
  for (; !stream.empty(); ++n_events) {
    const size_t end = stream.find("\n\n"), begin = stream.find("data: ");
    if (end == std::string_view::npos || begin > end) return "no event";
    const std::string_view data = stream.substr(begin + 6, end - begin - 6);
    stream.remove_prefix(end + 2);
    if (data == "[DONE]") return stream.empty() ? "" : "[DONE] is not the last";
    std::string fault = fault_of(media["x-event-data"], json::parse(data));
    if (!fault.empty()) return fault;
  }
  return n_events > 0 ? "" : "no events";
}

/// Why a reply is not as a response of the description has it; "" = it is.
std::string content_fault(const json& response, const Reply& reply) {
  const auto header = reply.headers.find("content-type");
  if (header == reply.headers.end()) return "no Content-Type";
  const std::string type = header->second.substr(0, header->second.find(';'));
  if (!response["content"].contains(type)) return type + " is not described";
  const json& media = response["content"][type];
  if (type == "text/event-stream") return stream_fault(media, reply.body);
  const bool is_json = type == "application/json";
  return fault_of(media["schema"], is_json ? json::parse(reply.body) : json(reply.body));
}

class DescribedReplies : public ::testing::Test {
 protected:
  void start(ServeApp::Options options = {}, bool is_loaded = true, HttpLimits limits = {}) {
    server_.reset();
    app_.emplace(std::move(options));
    if (is_loaded) app_->set_service(service_);
    ListenAddress address;
    address.port = 0;
    server_.emplace(Listener::open(address), *app_, limits);
  }

  Reply send(const std::string& bytes) {
    SocketClient client(server_->listener().port());
    client.send(bytes);
    return client.read_reply();
  }
  /// `lines` of the head stand beside Host.
  Reply send(const Operation& operation, const std::string& lines, const std::string& body = "",
             const std::string& host = "localhost") {
    return send(fmt::format("{} {} HTTP/1.1\r\nHost: {}\r\n{}\r\n{}", operation.method,
                            operation.target(), host, lines, body));
  }
  Reply ask(const Operation& operation, const std::string& body) {
    if (!operation.is_post()) return send(operation, "");
    const std::string lines =
        fmt::format("Content-Type: application/json\r\nContent-Length: {}\r\n", body.size());
    return send(operation, lines, body);
  }
  Reply ask(const Operation& operation) { return ask(operation, operation.body()); }

  void expect_described(const Operation& operation, int status, const Reply& reply) {
    SCOPED_TRACE(fmt::format("{} {}: {}", operation.method, operation.path, reply.body));
    EXPECT_EQ(reply.status, status);
    const std::string key = std::to_string(reply.status);
    ASSERT_TRUE(operation.of["responses"].contains(key)) << key << " is not described";
    EXPECT_EQ(content_fault(resolved(operation.of["responses"][key]), reply), "");
  }

  ScriptedService service_;
  std::optional<ServeApp> app_;
  std::optional<HttpServer> server_;
};

TEST_F(DescribedReplies, OfEveryOperation) {
  service_.said_facts.plan = {"The planner decided."};
  service_.said_facts.layer_places = {"dram", "nvme"};
  service_.said_facts.ffn_places = {"", "dram"};
  service_.said_counts.slots = {{.id = 4, .is_busy = true, .n_tokens = 90}};
  service_.said_counts.tiers = {{.name = "dram", .budget_bytes = 1000, .weights_bytes = 400}};
  start();
  for (const Operation& operation : operations()) expect_described(operation, 200, ask(operation));
}

const Operation& operation_at(const std::string& path) {
  static const std::vector<Operation> all = operations();
  for (const Operation& operation : all)
    if (operation.path == path) return operation;
  throw Error(ErrorCode::kUsage, "no such path: " + path);
}

/// An answer with everything that one can have beside its text.
void script_rich_answer(ScriptedService& service) {
  service.said_facts.chat_template = "{{ tools }}<tool_call>";
  AnswerEvent scored = testing::text_event("Hi ");
  const TokenLogprob token = {.token = 5, .bytes = "Hi\xFF", .logprob = -0.5};
  scored.tokens = {{.token = token, .likeliest = {token}}};
  AnswerEvent end = testing::end_event();
  end.stop_text = "x";
  end.drafts.proposed = 4;
  service.script = {testing::prompt_event(3, 7),
                    testing::prompt_event(7, 7),
                    scored,
                    testing::text_event(R"(<tool_call>{"name": "f", "arguments": {"a": 1}})"),
                    testing::text_event("</tool_call>"),
                    end};
}

TEST_F(DescribedReplies, OfRichAnswersWholeAndStreamed) {
  script_rich_answer(service_);
  start();
  const std::string chat = R"({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9)";
  const std::string tool = R"("function": {"name": "f"})";
  const std::vector<std::pair<std::string, std::string>> bodies = {
      {"/v1/chat/completions", chat +
                                   R"(, "logprobs": true, "top_logprobs": 1, "tools": [{"type":)"
                                   R"( "function", )" +
                                   tool + "}]"},
      {"/v1/completions", R"({"prompt": "once", "logprobs": 1)"},
      {"/v1/completions", R"({"prompt": "once", "echo": true)"},
      {"/v1/messages", chat + R"(, "tools": [{"name": "f"}])"}};
  for (const auto& [path, body] : bodies) {
    const Operation& operation = operation_at(path);
    expect_described(operation, 200, ask(operation, body + "}"));
    const bool is_openai = path != "/v1/messages";
    const char* const further =
        is_openai ? R"(, "return_progress": true, "stream_options": {"include_usage": true})" : "";
    const Reply reply = ask(operation, body + R"(, "stream": true)" + further + "}");
    expect_described(operation, 200, reply);
    EXPECT_EQ(reply.headers.at("content-type"), "text/event-stream");
  }
  service_.script = {testing::text_event("a"),
                     testing::error_event(Error(ErrorCode::kIo, "the disk is gone"))};
  for (const auto& [path, body] : bodies)
    expect_described(operation_at(path), 200,
                     ask(operation_at(path), body + R"(, "stream": true})"));
}

TEST_F(DescribedReplies, OfActionsOnSlotsAndOfPieces) {
  start();
  Operation action = operation_at("/slots/{id}");
  for (const char* kind : {"save", "restore", "erase"}) {
    SocketClient client(server_->listener().port());
    expect_described(action, 200,
                     client.post(fmt::format("/slots/3?action={}", kind), action.body()));
  }
  for (const auto& [end, status] :
       {std::pair{SlotOutcome::End::kNoName, 404}, std::pair{SlotOutcome::End::kNoSlot, 404},
        std::pair{SlotOutcome::End::kIsBusy, 409}}) {
    service_.slot_outcome.end = end;
    expect_described(action, status, ask(action));
  }
  const Operation& tokenize = operation_at("/tokenize");
  expect_described(tokenize, 200, ask(tokenize, R"({"content": "ä", "with_pieces": true})"));
  service_.said_counts.n_busy = service_.said_facts.n_parallel;
  SocketClient client(server_->listener().port());
  expect_described(operation_at("/slots"), 503, client.get("/slots?fail_on_no_slot=1"));
}

TEST_F(DescribedReplies, OfWhatTheServiceRefuses) {
  start();
  const std::pair<ErrorCode, int> ends[] = {
      {ErrorCode::kUsage, 400},       {ErrorCode::kContextLengthExceeded, 400},
      {ErrorCode::kBusy, 429},        {ErrorCode::kIo, 500},
      {ErrorCode::kUnsupported, 501}, {ErrorCode::kCancelled, 503}};
  for (const auto& [code, status] : ends) {
    service_.refusal = Error(code, "refused", "prompt", "Ask otherwise.");
    for (const char* path :
         {"/v1/chat/completions", "/v1/completions", "/v1/messages", "/slots/{id}"})
      expect_described(operation_at(path), status, ask(operation_at(path)));
  }
}

TEST_F(DescribedReplies, OfRequestsThatMayNotAsk) {
  ServeApp::Options options;
  options.access.keys = {"secret"};
  start(std::move(options));
  for (const Operation& operation : operations()) {
    if (!operation.is_open()) expect_described(operation, 401, ask(operation));
    expect_described(operation, 403, send(operation, "", "", "evil.example"));
  }
}

TEST_F(DescribedReplies, OfBodiesThatAreNotTaken) {
  start();
  const std::string type = "Content-Type: application/json\r\n";
  for (const Operation& operation : operations()) {
    expect_described(operation, 400, send(operation, type + "Content-Length: x\r\n"));
    expect_described(operation, 413, send(operation, type + "Content-Length: 99999999999\r\n"));
    expect_described(operation, 415,
                     send(operation, "Content-Encoding: gzip\r\nContent-Length: 2\r\n", "{}"));
    expect_described(operation, 501, send(operation, type + "Transfer-Encoding: gzip\r\n"));
    if (!operation.is_post()) continue;
    expect_described(operation, 400, ask(operation, "{"));
    expect_described(operation, 411, send(operation, type));
    expect_described(operation, 415,
                     send(operation, "Content-Type: text/plain\r\nContent-Length: 2\r\n", "{}"));
  }
}

TEST_F(DescribedReplies, OfBodiesThatComeTooSlowly) {
  HttpLimits limits;
  limits.body = std::chrono::milliseconds(20);
  start({}, true, limits);
  for (const Operation& operation : operations())
    if (operation.is_post())
      expect_described(
          operation, 408,
          send(operation, "Content-Type: application/json\r\nContent-Length: 9\r\n", "{"));
}

TEST_F(DescribedReplies, WhileTheModelLoads) {
  start({}, false);
  for (const Operation& operation : operations()) {
    const bool needs_none = operation.is_open() || operation.path == "/metrics";
    const bool is_health = operation.path == "/health";
    expect_described(operation, needs_none && !is_health ? 200 : 503, ask(operation));
  }
}

TEST_F(DescribedReplies, OfNoOperation) {
  start();
  const json& responses = described()["components"]["responses"];
  const std::string host = "Host: localhost\r\n\r\n";
  const auto expect_response = [&](const char* name, int status, const std::string& bytes) {
    const Reply reply = send(bytes);
    EXPECT_EQ(reply.status, status) << bytes.substr(0, 100);
    EXPECT_EQ(content_fault(responses[name], reply), "") << reply.body;
  };
  expect_response("noPath", 404, "GET /nothing HTTP/1.1\r\n" + host);
  expect_response("noMethod", 405, "GET /v1/messages HTTP/1.1\r\n" + host);
  expect_response("noMethod", 405, "DELETE /health HTTP/1.1\r\n" + host);
  expect_response("noHead", 400, "no HTTP\r\n\r\n");
  expect_response("noHead", 414, "GET /" + std::string(9000, 'a') + " HTTP/1.1\r\n" + host);
  expect_response("noHead", 431, "GET / HTTP/1.1\r\nX: " + std::string(20000, 'a') + "\r\n" + host);
}

}  // namespace
}  // namespace strata::serve
