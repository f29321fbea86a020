// The routes over real sockets, with answers that are a script.
#include "tools/serve/serve_app.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "engine/context_size.h"
#include "tests/serve/scripted_service.h"
#include "tests/serve/socket_client.h"
#include "tools/serve/embedded.h"
#include "tools/serve/http_server.h"

namespace strata::serve {
namespace {

using nlohmann::json;
using testing::end_event;
using testing::Reply;
using testing::ScriptedService;
using testing::SocketClient;
using testing::text_event;

constexpr const char* kChat = "/v1/chat/completions";
constexpr const char* kHello = R"({"messages": [{"role": "user", "content": "hi"}]})";
constexpr const char* kHelloStreamed =
    R"({"messages": [{"role": "user", "content": "hi"}], "stream": true})";

class ServeAppTest : public ::testing::Test {
 protected:
  void start(ServeApp::Options options = {}, bool is_loaded = true, HttpLimits limits = {}) {
    app_.emplace(std::move(options));
    if (is_loaded) app_->set_service(service_);
    ListenAddress address;
    address.port = 0;
    server_.emplace(Listener::open(address), *app_, limits);
  }
  uint16_t port() const { return server_->listener().port(); }
  Reply get(const std::string& path, const std::string& headers = "") {
    return SocketClient(port()).get(path, headers);
  }
  Reply post(const std::string& path, const std::string& body, const std::string& headers = "") {
    return SocketClient(port()).post(path, body, headers);
  }
  ScriptedService service_;
  std::optional<ServeApp> app_;
  std::optional<HttpServer> server_;
};

TEST_F(ServeAppTest, AnswersInEveryShape) {
  start();
  const json chat = json::parse(post(kChat, kHello).body);
  EXPECT_EQ(chat["choices"][0]["message"]["content"], "Hello there");
  EXPECT_EQ(chat["usage"]["prompt_tokens"], 7);
  EXPECT_EQ(chat["model"], "scripted");
  const json text = json::parse(post("/v1/completions", R"({"prompt": "a"})").body);
  EXPECT_EQ(text["choices"][0]["text"], "Hello there");
  const json message = json::parse(
      post("/v1/messages", R"({"max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]})")
          .body);
  EXPECT_EQ(message["content"][0]["text"], "Hello there");
  const auto orders = service_.orders();
  ASSERT_EQ(orders.size(), 3u);
  EXPECT_EQ(orders[0].messages.at(0).content, "hi");
  EXPECT_EQ(orders[1].text, "a");
  EXPECT_EQ(orders[2].n_predict, 5u);
}

TEST_F(ServeAppTest, StreamsEventsAsTheyCome) {
  service_.n_held = 2;
  start();
  SocketClient client(port());
  client.request("POST", kChat, kHelloStreamed);
  EXPECT_NE(client.read_until("text/event-stream\r\n"), "");
  EXPECT_NE(client.read_until("Hello"), "");
  service_.release();
  EXPECT_NE(client.read_until(" there"), "");
  EXPECT_NE(client.read_until("data: [DONE]\n\n"), "");
  EXPECT_NE(client.read_until("\r\n0\r\n\r\n"), "");
  EXPECT_EQ(client.get("/health").status, 200);
}

TEST_F(ServeAppTest, ClientThatLeavesCancelsItsAnswer) {
  service_.n_held = 2;
  start();
  SocketClient streamed(port()), whole(port());
  streamed.request("POST", kChat, kHelloStreamed);
  whole.request("POST", kChat, kHello);
  streamed.read_until("Hello");
  ASSERT_TRUE(service_.wait_orders(2));
  streamed.close();
  EXPECT_TRUE(service_.wait_cancelled(1));
  whole.close();
  EXPECT_TRUE(service_.wait_cancelled(2));
}

TEST_F(ServeAppTest, OrderHoldsNoBodyWhileItIsAnswered) {
  service_.n_held = 2;
  HttpLimits limits;
  limits.all_bodies_bytes = std::string_view(kHello).size();
  start({}, true, limits);
  SocketClient waits(port()), other(port());
  waits.request("POST", kChat, kHello);
  ASSERT_TRUE(service_.wait_asked());
  other.request("POST", kChat, kHello);
  EXPECT_TRUE(service_.wait_orders(2));
  service_.release();
  EXPECT_EQ(waits.read_reply().status, 200);
  EXPECT_EQ(other.read_reply().status, 200);
}

TEST_F(ServeAppTest, OrderHasTheRoomOfItsBodyUntilItIsTaken) {
  HttpLimits limits;
  limits.all_bodies_bytes = std::string_view(kHello).size();
  std::atomic<int> n_taken = 0, status = 0;
  service_.on_submit = [&] {
    if (n_taken++ == 0) status = post(kChat, kHello).status;
  };
  start({}, true, limits);
  EXPECT_EQ(post(kChat, kHello).status, 200);
  EXPECT_EQ(status, 503);
}

TEST(HttpRequest, BodyThatIsDroppedTakesNoMemory) {
  HttpRequest request;
  request.body.assign(1 << 20, 'x');
  request.drop_body();
  EXPECT_LT(request.body.capacity(), 100u);
}

TEST_F(ServeAppTest, ManyStreamsAtOnce) {
  service_.n_held = 2;
  start();
  std::vector<std::unique_ptr<SocketClient>> clients;
  for (int i = 0; i < 128; ++i) {
    clients.push_back(std::make_unique<SocketClient>(port()));
    clients.back()->request("POST", kChat, kHelloStreamed);
  }
  for (auto& client : clients) EXPECT_NE(client->read_until("Hello"), "");
  EXPECT_EQ(get("/health").status, 200);
  service_.release();
  for (auto& client : clients) EXPECT_NE(client->read_until("[DONE]"), "");
}

TEST_F(ServeAppTest, ErrorsHaveAStatusAndWords) {
  start();
  service_.refusal = Error(ErrorCode::kBusy, "the queue is full");
  Reply reply = post(kChat, kHello);
  EXPECT_EQ(reply.status, 429);
  EXPECT_EQ(reply.headers["retry-after"], "1");
  service_.refusal = Error(ErrorCode::kContextLengthExceeded, "too long");
  reply = post(kChat, kHello);
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(json::parse(reply.body)["error"]["code"], "context_length_exceeded");
  service_.refusal.reset();
  service_.script = {testing::error_event(Error(ErrorCode::kIo, "the disk is gone"))};
  EXPECT_EQ(post(kChat, kHello).status, 500);
  EXPECT_NE(post(kChat, kHelloStreamed).body.find("the disk is gone"), std::string::npos);
}

TEST_F(ServeAppTest, TimesOfAnswersAreCountedOnce) {
  start();
  EXPECT_EQ(post(kChat, kHello).status, 200);
  EXPECT_EQ(post(kChat, kHelloStreamed).status, 200);
  service_.script = {text_event("Hello"), testing::error_event(Error(ErrorCode::kIo, "gone"))};
  EXPECT_EQ(post(kChat, kHello).status, 500);
  const std::string metrics = get("/metrics").body;
  for (const char* line : {"strata_first_token_seconds_count 3\n", "strata_token_seconds_count 2\n",
                           "strata_token_seconds_sum 0.04\n",  // 20 ms each, as the script says
                           "strata_whole_answer_seconds_count 2\n"})
    EXPECT_NE(metrics.find(line), std::string::npos) << line << metrics;
}

TEST_F(ServeAppTest, WhatNoRouteTakesIsRefusedInTheClientsShape) {
  start();
  EXPECT_EQ(get("/nothing").status, 404);
  EXPECT_EQ(get("/slots/x").status, 404);
  Reply reply = get(kChat);
  EXPECT_EQ(reply.status, 405);
  EXPECT_EQ(reply.headers["allow"], "POST, OPTIONS");
  EXPECT_EQ(json::parse(reply.body)["error"]["type"], "invalid_request_error");
  SocketClient client(port());
  client.send(
      "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
      "Content-Length: 2\r\n\r\n{}");
  reply = client.read_reply();
  EXPECT_EQ(reply.status, 415);
  EXPECT_EQ(json::parse(reply.body)["type"], "error");
  SocketClient deleting(port());
  deleting.send("DELETE /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_EQ(deleting.read_reply().status, 405);
  EXPECT_EQ(SocketClient(port()).get("/health", "Host: evil.example\r\n").status, 400);
  SocketClient foreign(port());
  foreign.send("GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n");
  EXPECT_EQ(foreign.read_reply().status, 403);
}

TEST_F(ServeAppTest, HostileBodiesAreRefused) {
  start();
  const std::string deep = R"({"messages": )" + std::string(100000, '[');
  for (const std::string& body :
       {std::string("{"), std::string("[]"), std::string("null"), deep,
        deep + std::string(100000, ']') + "}", std::string(R"({"messages": "text"})"),
        std::string(R"({"messages": [{"role": 7, "content": {}}]})"),
        std::string("{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\xfe\"}]}"),
        std::string(R"({"messages": [], "max_tokens": -1})")}) {
    const Reply reply = post(kChat, body);
    EXPECT_EQ(reply.status, 400) << body.substr(0, 60);
    EXPECT_FALSE(json::parse(reply.body)["error"]["message"].get<std::string>().empty());
  }
  EXPECT_EQ(post("/detokenize", R"({"tokens": [-1]})").status, 400);
  EXPECT_EQ(post("/detokenize", R"({"tokens": [4294967296]})").status, 400);
  EXPECT_EQ(post("/detokenize", R"({"tokens": ["a"]})").status, 400);
  EXPECT_EQ(post("/tokenize", R"({"content": 7})").status, 400);
  EXPECT_EQ(post("/tokenize", "{}").status, 400);
  EXPECT_TRUE(service_.orders().empty());
}

TEST_F(ServeAppTest, WhileTheModelLoadsOnlyWhatNeedsNoneIsAnswered) {
  start({}, false);
  Reply reply = get("/health");
  EXPECT_EQ(reply.status, 503);
  EXPECT_EQ(reply.body, R"({"status":"loading model"})");
  reply = post(kChat, kHello);
  EXPECT_EQ(reply.status, 503);
  EXPECT_EQ(reply.headers["retry-after"], "1");
  EXPECT_EQ(get("/metrics").status, 200);
  EXPECT_EQ(get("/").status, 200);
  app_->set_service(service_);
  EXPECT_EQ(get("/health").body, R"({"status":"ok"})");
  EXPECT_EQ(post(kChat, kHello).status, 200);
}

TEST_F(ServeAppTest, KeyOpensEverythingAndHealthIsOpen) {
  ServeApp::Options options;
  options.access.keys = {"secret"};
  start(std::move(options));
  EXPECT_EQ(get("/health").status, 200);
  EXPECT_EQ(get("/").status, 200);
  for (const char* path : {"/v1/models", "/metrics", "/status", "/slots", "/props", "/nothing"})
    EXPECT_EQ(get(path).status, 401) << path;
  EXPECT_EQ(post(kChat, kHello).status, 401);
  EXPECT_EQ(post(kChat, kHello, "Authorization: Bearer secret\r\n").status, 200);
  EXPECT_EQ(post("/v1/messages", "{}", "x-api-key: wrong\r\n").status, 401);
}

TEST_F(ServeAppTest, OrdersBelongToTheirKey) {
  ServeApp::Options options;
  options.access.keys = {"one", "other"};
  start(std::move(options));
  EXPECT_EQ(post(kChat, kHello, "Authorization: Bearer one\r\n").status, 200);
  EXPECT_EQ(post(kChat, kHello, "x-api-key: other\r\n").status, 200);
  EXPECT_EQ(post(kChat, kHello, "x-api-key: proxy\r\nAuthorization: bearer one\r\n").status, 200);
  const auto orders = service_.orders();
  ASSERT_EQ(orders.size(), 3u);
  EXPECT_EQ(orders[0].owner, "one");
  EXPECT_EQ(orders[1].owner, "other");
  EXPECT_EQ(orders[2].owner, "one");
  for (const AnswerOrder& order : orders) EXPECT_EQ(order.asker, order.owner);
}

TEST_F(ServeAppTest, KeysTakeTurnsAlsoWherePrefixesAreShared) {
  ServeApp::Options options;
  options.access.keys = {"one", "other"};
  options.shares_prefixes = true;
  start(std::move(options));
  EXPECT_EQ(post(kChat, kHello, "x-api-key: other\r\n").status, 200);
  EXPECT_EQ(service_.orders().at(0).asker, "other");
  EXPECT_EQ(service_.orders().at(0).owner, "");
}

TEST_F(ServeAppTest, OrdersBelongToNobodyWherePrefixesAreSharedOrNoKeyIsAsked) {
  ServeApp::Options options;
  options.access.keys = {"one", "one"};  // on the command line and in a file
  options.shares_prefixes = true;
  start(std::move(options));
  EXPECT_EQ(post(kChat, kHello, "Authorization: Bearer one\r\n").status, 200);
  server_.reset();
  start();
  EXPECT_EQ(post(kChat, kHello, "Authorization: Bearer one\r\n").status, 200);
  ASSERT_EQ(service_.orders().size(), 2u);
  for (const AnswerOrder& order : service_.orders()) EXPECT_EQ(order.owner + order.asker, "");
}

TEST_F(ServeAppTest, PagesOfOtherSitesAskOnlyWhereTheyMay) {
  ServeApp::Options options;
  options.access.cors_origins = {"https://app.example"};
  start(std::move(options));
  EXPECT_EQ(post(kChat, kHello, "Origin: https://evil.example\r\n").status, 403);
  Reply reply = post(kChat, kHello, "Origin: https://app.example\r\n");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.headers["access-control-allow-origin"], "https://app.example");
  SocketClient client(port());
  client.request("OPTIONS", kChat, "", "Origin: https://app.example\r\n");
  reply = client.read_reply(false);
  EXPECT_EQ(reply.status, 204);
  EXPECT_NE(reply.headers["access-control-allow-headers"].find("Authorization"), std::string::npos);
}

TEST_F(ServeAppTest, SaysWhatItServes) {
  service_.said_facts.chat_template = "{{ template }}";
  service_.said_facts.plan = {"The planner decided."};
  service_.said_facts.layer_places = {"dram", "nvme"};
  service_.said_facts.ffn_places = {"", "dram"};
  service_.said_layers = {{.hbm = 0, .dram = 9, .nvme = 0}};
  service_.said_counts.n_busy = 2;
  service_.said_counts.slots = {{.id = 4, .is_busy = true, .n_tokens = 90}};
  service_.said_counts.tiers = {{.name = "dram", .budget_bytes = 1000, .weights_bytes = 400}};
  start();
  EXPECT_EQ(json::parse(get("/v1/models").body)["data"][0]["id"], "scripted");
  EXPECT_EQ(json::parse(get("/props").body)["total_slots"], 2);
  EXPECT_EQ(json::parse(get("/props").body)["chat_template"], "{{ template }}");
  EXPECT_EQ(json::parse(get("/slots").body)[0]["n_past"], 90);
  EXPECT_EQ(get("/slots?fail_on_no_slot=1").status, 503);
  EXPECT_EQ(json::parse(get("/status").body)["tiers"]["dram"]["weights_bytes"], 400);
  const json status = json::parse(get("/status").body);
  EXPECT_EQ(status["plan"][0], "The planner decided.");
  EXPECT_EQ(status["layers"].dump(),
            R"([{"dram":9,"hbm":0,"nvme":0,"weights":"dram"},)"
            R"({"dram":0,"ffn":"dram","hbm":0,"nvme":0,"weights":"nvme"}])");
  EXPECT_NE(get("/metrics").body.find("strata_tier_bytes{tier=\"dram\",kind=\"weights\"} 400"),
            std::string::npos);
}

TEST_F(ServeAppTest, TurnsTextIntoTokensAndBack) {
  start();
  EXPECT_EQ(post("/tokenize", R"({"content": "ab"})").body, R"({"tokens":[97,98,2]})");
  EXPECT_EQ(
      post("/tokenize", R"({"content": "a", "add_special": true, "parse_special": false})").body,
      R"({"tokens":[1,97]})");
  EXPECT_EQ(
      post("/tokenize", R"({"content": "ä", "parse_special": false, "with_pieces": true})").body,
      R"({"tokens":[{"id":195,"piece":[195]},{"id":164,"piece":[164]}]})");
  EXPECT_EQ(post("/detokenize", R"({"tokens": [97, 98]})").body, R"({"content":"ab"})");
  EXPECT_EQ(post("/detokenize", R"({"tokens": [300]})").status, 400);
  const std::string long_text((1 << 20) + 1, '7');
  EXPECT_EQ(post("/tokenize", json{{"content", long_text}}.dump()).status, 200);
  EXPECT_EQ(post("/tokenize", json{{"content", long_text}, {"with_pieces", true}}.dump()).status,
            400);
  const std::string longer((4 << 20) + 1, '7');
  EXPECT_EQ(post("/tokenize", json{{"content", longer}}.dump()).status, 400);
  EXPECT_EQ(post("/detokenize", json{{"tokens", std::vector<int>(longer.size())}}.dump()).status,
            400);
  EXPECT_EQ(post("/apply-template", kHello).body, R"({"prompt":"user: hi|"})");
}

TEST_F(ServeAppTest, PageLoadsNothingAndSetsNoMarkup) {
  start();
  Reply reply = get("/");
  EXPECT_TRUE(reply.headers["content-type"].starts_with("text/html"));
  EXPECT_TRUE(reply.headers["content-security-policy"].starts_with("default-src 'none'"));
  EXPECT_EQ(reply.body, page_html());
  for (const char* word : {"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write",
                           "eval(", "http://", "https://", "src=", "@import"})
    EXPECT_EQ(reply.body.find(word), std::string::npos) << word;
}

TEST_F(ServeAppTest, DescriptionAndRoutesAreTheSame) {
  start();
  const json description = json::parse(get("/openapi.json").body);
  size_t n_described = 0;
  for (const auto& [path, methods] : description["paths"].items()) {
    for (const auto& [method, operation] : methods.items()) {
      ++n_described;
      const std::string where = path == "/slots/{id}" ? "/slots/0?action=save" : path;
      const Reply reply = method == "get" ? get(where) : post(where, "{}");
      EXPECT_NE(reply.status, 404) << method << path;
      EXPECT_NE(reply.status, 405) << method << path;
      EXPECT_NE(reply.status, 0) << method << path;
      const bool is_open = operation.contains("security") && operation["security"].empty();
      EXPECT_EQ(is_open, path == "/" || path == "/health" || path == "/openapi.json") << path;
    }
  }
  EXPECT_EQ(n_described, ServeApp::route_names().size());
  for (const RouteName& route : ServeApp::route_names())
    EXPECT_TRUE(description["paths"].contains(route.path)) << route.path;
}

TEST_F(ServeAppTest, LogNamesRequestsAndNoSecret) {
  std::mutex mutex;
  std::condition_variable changed;
  std::string log;
  ServeApp::Options options;
  options.access.keys = {"secret"};
  options.log = [&](const HttpRequest& request, const HttpOutcome& outcome) {
    const std::lock_guard lock(mutex);
    log += fmt::format("{} {} {} {}\n", request.id, request.method, request.path, outcome.status);
    changed.notify_all();
  };
  start(std::move(options));
  const Reply reply = post(kChat, kHello, "Authorization: Bearer secret\r\n");
  std::unique_lock lock(mutex);
  const std::string line = fmt::format("{} POST {} 200\n", reply.headers.at("x-request-id"), kChat);
  EXPECT_TRUE(changed.wait_for(lock, std::chrono::seconds(30), [&] { return !log.empty(); }));
  EXPECT_EQ(log, line);
  lock.unlock();
  server_.reset();
}

}  // namespace
}  // namespace strata::serve
