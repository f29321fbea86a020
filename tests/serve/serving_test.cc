#include "tools/serve/serving.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "tests/serve/scripted_service.h"
#include "tests/serve/socket_client.h"
#include "tools/cli/notices.h"

namespace strata::serve {
namespace {

using testing::ScriptedService;
using testing::SocketClient;

/// Opens once, for who waits.
class Gate {
 public:
  void open() {
    const std::lock_guard lock(mutex_);
    is_open_ = true;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(30), [this] { return is_open_; }));
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_open_ = false;
};

TEST(Serving, ListensBeforeItLoadsAndDrainsBeforeItEnds) {
  ScriptedService service;
  service.n_held = 2;
  ServingSetup setup;
  // A port that was free a moment ago: the events name none before the model is loaded.
  {
    ListenAddress any;
    any.port = 0;
    setup.address.port = Listener::open(any).port();
  }
  Gate is_loading, is_loaded, is_said, stops;
  std::string said;
  ServingEvents events;
  events.load = [&]() -> AnswerService& {
    is_loading.open();
    is_loaded.wait();
    return service;
  };
  events.wait_stop = [&] { stops.wait(); };
  events.say = [&](std::string_view line) {
    said += std::string(line) + "\n";
    is_said.open();
  };
  bool has_drained = false;
  std::thread server([&] { has_drained = serve_until_stopped(setup, events); });
  is_loading.wait();
  SocketClient client(setup.address.port);
  EXPECT_EQ(client.get("/health").body, R"({"status":"loading model"})");
  is_loaded.open();
  is_said.wait();
  EXPECT_EQ(client.get("/health").body, R"({"status":"ok"})");
  client.request("POST", "/v1/completions", R"({"prompt": "a", "stream": true})");
  EXPECT_NE(client.read_until("Hello"), "");
  stops.open();
  ASSERT_TRUE(service.wait_drained());
  service.release();
  EXPECT_NE(client.read_until("[DONE]"), "");
  server.join();
  EXPECT_TRUE(has_drained);
  EXPECT_EQ(said,
            fmt::format("http://127.0.0.1:{} serves scripted, 2 at a time, context 4096; "
                        "Ctrl-C stops\nstopped: 0 answered, 0 cancelled, 0 failed, 0 refused\n",
                        setup.address.port));
}

TEST(Serving, PortInUseIsSaidBeforeTheModelIsLoaded) {
  ListenAddress any;
  any.port = 0;
  const Listener other = Listener::open(any);
  ServingSetup setup;
  setup.address.port = other.port();
  ServingEvents events;
  events.load = []() -> AnswerService& { throw std::logic_error("loaded"); };
  EXPECT_THROW(serve_until_stopped(setup, events), Error);
}

TEST(Serving, FailureToLoadEndsTheServer) {
  ServingSetup setup;
  setup.address.port = 0;
  ServingEvents events;
  events.load = []() -> AnswerService& { throw Error(ErrorCode::kBadFile, "truncated"); };
  EXPECT_THROW(serve_until_stopped(setup, events), Error);
}

TEST(Serving, StopBeforeTheModelIsThereIsNoFailure) {
  ServingSetup setup;
  setup.address.port = 0;
  ServingEvents events;
  events.load = []() -> AnswerService& {
    throw Error(ErrorCode::kCancelled, "loading was stopped");
  };
  events.wait_stop = [] { ADD_FAILURE() << "it was waited for"; };
  std::string said;
  events.say = [&](std::string_view line) { said += line; };
  EXPECT_TRUE(serve_until_stopped(setup, events));
  EXPECT_EQ(said, "stopped before the model was loaded");
}

TEST(LogLine, NamesTheRequestInEitherForm) {
  HttpRequest request;
  request.id = "ab-1";
  request.client = "127.0.0.1";
  request.method = "GET";
  request.path = "/\xff 200 \n\x7f\u009b";
  const HttpOutcome outcome = {200, 0.5, 12, false};
  EXPECT_EQ(log_line(request, outcome, false),
            "ab-1 127.0.0.1 GET /%FF%20200%20%0A%7F%C2%9B 200 0.500 s, 12 bytes, not all taken");
  const auto line = nlohmann::json::parse(cli::one_line(log_line(request, outcome, true)));
  EXPECT_EQ(line["path"], "/\ufffd 200 \n\x7f\u009b");
  EXPECT_EQ(line["id"], "ab-1");
  EXPECT_EQ(line["ms"], 500.0);
  EXPECT_EQ(line["whole"], false);
}

}  // namespace
}  // namespace strata::serve
