// Keys that ask at once, over real sockets: none fills the queue alone, and they take turns.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/serve/slot_server.h"
#include "tests/serve/wait_until.h"

namespace strata::serve {
namespace {

using nlohmann::json;
using testing::message_of;
using testing::Place;
using testing::Reply;
using testing::Server;
using testing::SocketClient;

constexpr uint32_t kFairQueue = 8;
constexpr const char* kFairPath = "/v1/completions";

std::string fair_body(uint32_t n_tokens) {
  return json{{"prompt", "abc"}, {"max_tokens", n_tokens}, {"ignore_eos", true}, {"stream", true}}
      .dump();
}

/// A server that answers one request at a time and, from the first on, none until it is let go.
class FairQueue : public ::testing::Test {
 protected:
  void start(std::vector<std::string> keys) {
    EngineService::Options options;
    options.n_parallel = 1;
    options.n_queued_max = kFairQueue;
    options.review = [this](const engine::Generation& answer, bool) {
      ended_.push_back(answer.usage.completion_tokens);
      return std::vector<std::string>{};
    };
    ServeApp::Options app;
    app.access.keys = std::move(keys);
    server_ = std::make_unique<Server>(place_, options, std::move(app));
    server_->engine.walk().set_between_operations([this, &engine = server_->engine] {
      is_held_ = true;
      while (!lets_go_ && !engine.walk().cancel()->load()) std::this_thread::yield();
    });
  }
  void TearDown() override { lets_go_ = true; }

  /// An answer of so many tokens, which is taken.
  void ask(const std::string& key, uint32_t n_tokens) {
    clients_.push_back(std::make_unique<SocketClient>(server_->routes->port()));
    clients_.back()->request("POST", kFairPath, fair_body(n_tokens), "x-api-key: " + key + "\r\n");
    const uint64_t n = clients_.size();
    (void)testing::wait_until([&] { return is_held_ && server_->service->counts().orders == n; },
                              testing::kLong);
  }
  void expect_busy(const std::string& key, const std::string& said) {
    const Reply reply = server_->routes->post(kFairPath, fair_body(1), key);
    EXPECT_EQ(reply.status, 429) << reply.body;
    EXPECT_EQ(reply.headers.at("retry-after"), "1");
    EXPECT_NE(message_of(reply).find(said), std::string::npos) << reply.body;
  }
  /// The tokens of all answers, in the order of their ends.
  std::vector<uint64_t> end_all() {
    lets_go_ = true;
    for (const auto& client : clients_) EXPECT_NE(client->read_until("[DONE]"), "");
    EXPECT_TRUE(server_->service->drain(testing::kLong));
    return ended_;
  }

  const Place place_;
  std::atomic<bool> lets_go_ = false, is_held_ = false;  // the first, between two operations
  std::vector<uint64_t> ended_;  // of the engine's thread, until it has ended
  std::unique_ptr<Server> server_;
  std::vector<std::unique_ptr<SocketClient>> clients_;
};

TEST_F(FairQueue, AKeyLeavesPlacesAndTurnsToAnother) {
  start({"one", "other"});
  for (uint32_t i = 0; i < 1 + kFairQueue / 2; ++i) ask("one", 5);
  expect_busy("one", "4 requests of this key wait, and the 4 places that are free are for others");
  ask("other", 7);
  ask("other", 7);
  expect_busy("other", "2 requests of this key wait");
  EXPECT_EQ(end_all(), (std::vector<uint64_t>{5, 7, 5, 7, 5, 5, 5}));
}

TEST_F(FairQueue, ALoneKeyHasTheWholeQueue) {
  start({"one"});
  for (uint32_t i = 0; i < 1 + kFairQueue; ++i) ask("one", 5);
  expect_busy("one", "1 requests are at work and 8 wait");
  EXPECT_EQ(end_all().size(), 1 + kFairQueue);
}

}  // namespace
}  // namespace strata::serve
