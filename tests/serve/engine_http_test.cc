// An engine behind the routes, over real sockets: what only both together show.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/serve/slot_server.h"
#include "tests/serve/wait_until.h"

namespace strata::serve {
namespace {

using nlohmann::json;
using testing::document_of;
using testing::message_of;
using testing::Place;
using testing::Reply;
using testing::Server;
using testing::SocketClient;
using testing::wait_until;

constexpr const char* kCompletions = "/v1/completions";
constexpr const char* kChat = "/v1/chat/completions";

json body_of(const std::string& text, uint32_t n_tokens, bool is_streamed) {
  return {{"prompt", text},
          {"max_tokens", n_tokens},
          {"temperature", 0},
          {"ignore_eos", true},
          {"seed", 1},
          {"logit_bias", testing::no_bytes()},
          {"stream", is_streamed}};
}

/// Nothing is saved, and one order is at work at a time.
EngineService::Options one_by_one() {
  EngineService::Options options;
  options.n_parallel = 1;
  return options;
}

/// Of Operations and the engine's thread, which comes by until the server ends: that may be later.
struct OperationsDesk {
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t n = 0, n_let_go = UINT64_MAX;
};

/// Counts the operations of an engine's steps, and holds them where it is wanted, no longer than it
/// lives. Set before the first order.
class Operations {
 public:
  explicit Operations(engine::Engine& engine) {
    engine.walk().set_between_operations([of = desk_, &engine] {
      std::unique_lock lock(of->mutex);
      ++of->n;
      of->changed.notify_all();
      while (of->n > of->n_let_go && !engine.walk().cancel()->load())
        of->changed.wait_for(lock, std::chrono::milliseconds(10));
    });
  }
  ~Operations() { let_go(); }
  Operations(const Operations&) = delete;
  Operations& operator=(const Operations&) = delete;
  uint64_t n() const {
    const std::lock_guard lock(desk_->mutex);
    return desk_->n;
  }
  /// From now on no operation ends but `more`, the one that is held included.
  void hold_after(uint64_t more) {
    const std::lock_guard lock(desk_->mutex);
    desk_->n_let_go = std::max(desk_->n, uint64_t{1}) - 1 + more;
    desk_->changed.notify_all();
  }
  void let_go() {
    const std::lock_guard lock(desk_->mutex);
    desk_->n_let_go = UINT64_MAX;
    desk_->changed.notify_all();
  }
  /// Waits until one is held.
  void wait_held() {
    std::unique_lock lock(desk_->mutex);
    EXPECT_TRUE(
        desk_->changed.wait_for(lock, testing::kLong, [&] { return desk_->n > desk_->n_let_go; }));
  }

 private:
  const std::shared_ptr<OperationsDesk> desk_ = std::make_shared<OperationsDesk>();
};

/// Ends of requests, as the server logs them: what a client's departure has ended is gone by then.
class Ends {
 public:
  ServeApp::Options options() {
    ServeApp::Options options;
    options.log = [this](const HttpRequest& request, const HttpOutcome&) {
      const std::lock_guard lock(mutex_);
      if (request.path == kCompletions) ++n_;
      changed_.notify_all();
    };
    return options;
  }
  void wait(uint64_t n) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, testing::kLong, [&] { return n_ >= n; }));
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t n_ = 0;
};

/// What a step of one token takes. The first operation has no other before it.
uint64_t operations_of_a_step(Server& server, const Operations& operations) {
  (void)server.ask("a", "", 1);
  const uint64_t before = operations.n();
  (void)server.ask("b", "", 1);
  return operations.n() - before;
}

TEST(EngineHttp, AClientThatLeavesIsAnsweredForAStepAtMost) {
  const Place place;
  Ends ends;
  Server server(place, one_by_one(), ends.options());
  Operations operations(server.engine);
  const uint64_t n_step = operations_of_a_step(server, operations);
  ASSERT_GT(n_step, 1u);
  for (const bool is_streamed : {true, false}) {
    const ServiceCounts before = server.service->counts();
    operations.hold_after(10 * n_step);
    SocketClient client(server.routes->port());
    client.request("POST", kCompletions, body_of("abc", 1000, is_streamed).dump());
    operations.wait_held();
    const uint64_t n_held = operations.n();
    client.close();
    ends.wait(is_streamed ? 3 : 4);
    operations.let_go();
    ASSERT_TRUE(wait_until([&] { return server.service->counts().cancelled > before.cancelled; },
                           testing::kLong));
    EXPECT_LE(operations.n(), n_held + n_step);
  }
}

TEST(EngineHttp, AClientThatLeavesTheQueueIsForgottenWithinAStep) {
  const Place place;
  Ends ends;
  Server server(place, one_by_one(), ends.options());
  Operations operations(server.engine);
  const uint64_t n_step = operations_of_a_step(server, operations);
  operations.hold_after(5 * n_step);
  SocketClient first(server.routes->port());
  first.request("POST", kCompletions, body_of("abc", 100, true).dump());
  operations.wait_held();
  for (const bool is_streamed : {true, false}) {
    const ServiceCounts before = server.service->counts();
    SocketClient waits(server.routes->port());
    waits.request("POST", kCompletions, body_of("xyz", 100, is_streamed).dump());
    ASSERT_TRUE(wait_until([&] { return server.service->counts().n_waiting > 0; }, testing::kLong));
    waits.close();
    ends.wait(is_streamed ? 3 : 4);
    operations.hold_after(2 * n_step);  // the rest of this step, and not all of the next but one
    operations.wait_held();
    const ServiceCounts after = server.service->counts();
    EXPECT_EQ(after.cancelled, before.cancelled + 1);
    EXPECT_EQ(after.n_waiting, 0u);
  }
  operations.let_go();
  EXPECT_NE(first.read_until("[DONE]"), "");
  // Counts are published behind the step that ended the answer.
  EXPECT_TRUE(wait_until([&] { return server.service->counts().answered == 3; }, testing::kLong));
}

TEST(EngineHttp, ADocumentThatTwoClientsAskAboutAtOnceIsReadOnce) {
  const Place place;
  EngineService::Options options;
  options.n_parallel = 2;
  Server server(place, options);
  Operations operations(server.engine);
  operations.hold_after(0);
  SocketClient first(server.routes->port()), second(server.routes->port());
  first.request("POST", kCompletions, body_of(document_of(3) + "first", 4, false).dump());
  second.request("POST", kCompletions, body_of(document_of(3) + "second", 4, false).dump());
  EXPECT_TRUE(wait_until([&] { return server.service->counts().orders == 2; }, testing::kLong));
  operations.let_go();
  uint64_t n_prompt = 0, n_cached = 0;
  for (SocketClient* client : {&first, &second}) {
    const json usage = json::parse(client->read_reply().body)["usage"];
    n_prompt += usage["prompt_tokens"].get<uint64_t>();
    n_cached += usage["prompt_tokens_details"]["cached_tokens"].get<uint64_t>();
  }
  EXPECT_GT(n_prompt, 1000u);
  EXPECT_GE(n_cached, 500u);  // the document, which one of them reads
  EXPECT_LT(n_cached, n_prompt / 2);
  EXPECT_TRUE(wait_until([&] { return server.service->counts().answered == 2; }, testing::kLong));
  EXPECT_EQ(server.service->counts().cached_tokens, n_cached);
}

TEST(EngineHttp, AReviewThatThrowsLeavesEveryAnswerWhole) {
  const Place place;
  std::atomic<int> n_reviewed = 0;
  EngineService::Options options;
  options.n_parallel = 2;
  options.review = [&n_reviewed](const engine::Generation&, bool) -> std::vector<std::string> {
    ++n_reviewed;
    throw std::bad_alloc();
  };
  Server server(place, options);
  Operations operations(server.engine);
  operations.hold_after(0);
  SocketClient first(server.routes->port()), second(server.routes->port());
  first.request("POST", kCompletions, body_of("abc", 5, true).dump());
  second.request("POST", kCompletions, body_of("xyz", 50, true).dump());
  ASSERT_TRUE(wait_until([&] { return server.service->counts().orders == 2; }, testing::kLong));
  operations.let_go();
  EXPECT_NE(first.read_until("[DONE]"), "");
  EXPECT_NE(second.read_until("[DONE]"), "");
  EXPECT_TRUE(wait_until([&] { return server.service->counts().answered == 2; }, testing::kLong));
  const ServiceCounts counts = server.service->counts();
  EXPECT_EQ(counts.failed, 0u);
  EXPECT_EQ(counts.answer_tokens, 55u);
  EXPECT_EQ(n_reviewed, 2);
  EXPECT_TRUE(server.service->take_notices().empty());
}

TEST(EngineHttp, APromptThatIsTooLongIsRefusedWithBothNumbers) {
  const Place place;
  Server server(place, one_by_one());
  const std::string text(3000, 'a');
  const Reply reply = server.routes->post(kCompletions, body_of(text, 1, false).dump());
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(json::parse(reply.body)["error"]["code"], "context_length_exceeded");
  for (const std::string number : {"has 300", "size of 2048"})
    EXPECT_NE(message_of(reply).find(number), std::string::npos) << reply.body;
}

/// What is no error that can be said stands for a client that there is no memory to tell.
struct Unsayable {};

TEST(EngineHttp, AClientThatCannotBeToldWhyIsToldThatItsAnswerFailed) {
  const Place place;
  std::atomic<bool> fails = true;  // before the server, whose engine asks it
  Server server(place, one_by_one());
  server.engine.walk().set_between_operations([&] {
    if (fails) throw Unsayable();
  });
  const Reply whole = server.routes->post(kCompletions, body_of("abc", 10, false).dump());
  EXPECT_EQ(whole.status, 503);
  EXPECT_NE(message_of(whole).find("no memory was left to say why"), std::string::npos);
  SocketClient client(server.routes->port());
  client.request("POST", kCompletions, body_of("abc", 10, true).dump());
  EXPECT_NE(client.read_until("no memory was left to say why"), "");
  EXPECT_NE(client.read_until("\r\n0\r\n\r\n"), "");
  EXPECT_TRUE(wait_until([&] { return server.service->counts().failed == 2; }, testing::kLong));
  fails = false;
  (void)server.ask("abc");
}

engine::testing::SmallModel with_template(const std::string& source) {
  engine::testing::SmallModel model = engine::testing::long_model();
  model.set("tokenizer.chat_template", source);
  return model;
}

json chat_of(const json& content) {
  return {{"messages", json::array({{{"role", "user"}, {"content", content}}})},
          {"max_tokens", 3},
          {"ignore_eos", true},
          {"logit_bias", testing::no_bytes()}};
}

TEST(EngineHttp, ATemplateThatFailsRefusesTheRequest) {
  const Place place(with_template("{{ raise_exception('roles have to alternate') }}"));
  Server server(place, one_by_one());
  for (const char* path : {kChat, "/apply-template", "/v1/messages"}) {
    const Reply reply = server.routes->post(path, chat_of("hi").dump());
    EXPECT_EQ(reply.status, 400) << path;
    EXPECT_NE(message_of(reply).find("roles have to alternate"), std::string::npos) << reply.body;
  }
  (void)server.ask("abc");
}

TEST(EngineHttp, ATemplateThatDoesNotParseIsANoticeAndRefusesChatsAlone) {
  const Place place(with_template("{% if %}"));
  std::atomic<int> n_told = 0;
  EngineService::Options options = one_by_one();
  options.on_notices = [&] { ++n_told; };
  Server server(place, options);
  EXPECT_EQ(n_told, 1);
  const auto notices = server.service->take_notices();
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_TRUE(notices[0].starts_with("the model's chat template does not parse: ")) << notices[0];
  for (const char* path : {kChat, "/apply-template", "/v1/messages"}) {
    const Reply reply = server.routes->post(path, chat_of("hi").dump());
    EXPECT_EQ(reply.status, 400) << path;
    EXPECT_TRUE(message_of(reply).starts_with("the model's chat template does not parse: "))
        << reply.body;
  }
  (void)server.ask("abc");
  EXPECT_EQ(json::parse(server.routes->get("/props").body)["chat_template"], "{% if %}");
}

TEST(EngineHttp, AContentOfNothingIsAMessageOfNothing) {
  const Place place(with_template("a{{ messages[0].content }}b"));
  Server server(place, one_by_one());
  for (const json& content : {json(""), json::array()}) {
    const Reply rendered = server.routes->post("/apply-template", chat_of(content).dump());
    EXPECT_EQ(json::parse(rendered.body)["prompt"], "ab") << content;
    EXPECT_EQ(server.routes->post(kChat, chat_of(content).dump()).status, 200) << content;
  }
  EXPECT_EQ(server.routes->post("/tokenize", R"({"content": ""})").body, R"({"tokens":[]})");
}

/// Its tokens are the bytes, and its answers anything.
engine::testing::SmallModel byte_model() {
  constexpr uint32_t kVocabulary = 3 + 256;
  engine::testing::SmallModel model =
      engine::testing::make_small_model({.vocab_size = kVocabulary, .n_ctx_train = 2048});
  engine::testing::draw_weights(model, 7);
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> kinds = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(fmt::format("<0x{:02X}>", byte));
    kinds.push_back(6);
  }
  model.set("tokenizer.ggml.scores", std::vector<float>(tokens.size(), 0.0f));
  model.set("tokenizer.ggml.tokens", std::move(tokens));
  model.set("tokenizer.ggml.token_type", std::move(kinds));
  return model;
}

TEST(EngineHttp, AnAnswerBoundToASchemaIsJsonOfIt) {
  const Place place(byte_model());
  Server server(place, one_by_one());
  const json schema = {
      {"type", "object"},
      {"properties", {{"colour", {{"enum", {"red", "green"}}}}, {"is_far", {{"type", "boolean"}}}}},
      {"required", {"colour", "is_far"}},
      {"additionalProperties", false}};
  for (uint32_t seed = 0; seed < 8; ++seed) {
    const json body = {
        {"messages", json::array({{{"role", "user"}, {"content", "say it"}}})},
        {"max_tokens", 500},
        {"temperature", 1},
        {"seed", seed},
        {"response_format",
         {{"type", "json_schema"}, {"json_schema", {{"name", "it"}, {"schema", schema}}}}}};
    const Reply reply = server.routes->post(kChat, body.dump());
    ASSERT_EQ(reply.status, 200) << reply.body;
    const json choice = json::parse(reply.body)["choices"][0];
    EXPECT_EQ(choice["finish_reason"], "stop");
    const auto text = choice["message"]["content"].get<std::string>();
    const json said = json::parse(text, nullptr, false);
    ASSERT_TRUE(said.is_object()) << text;
    EXPECT_EQ(said.size(), 2u) << text;
    EXPECT_TRUE(said["colour"] == "red" || said["colour"] == "green") << text;
    EXPECT_TRUE(said["is_far"].is_boolean()) << text;
  }
}

}  // namespace
}  // namespace strata::serve
