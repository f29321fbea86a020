// tests/serve/slot_server.h - a server with a folder of saved contexts, whose slots are acted on
// over real sockets.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/scheduled_order.h"
#include "tests/engine/test_folder.h"
#include "tests/serve/socket_client.h"
#include "tools/serve/engine_service.h"
#include "tools/serve/http_server.h"
#include "tools/serve/serve_app.h"

namespace strata::serve::testing {

using nlohmann::json;

inline constexpr uint32_t kContext = engine::testing::kLongContext;
inline constexpr std::chrono::milliseconds kLong = std::chrono::minutes(5);
inline constexpr const char* kNamed = R"({"filename": "notes.bin"})";

/// A service behind the routes, on a port of its own.
class Routes {
 public:
  explicit Routes(AnswerService& service, ServeApp::Options options = {})
      : app_(std::move(options)) {
    app_.set_service(service);
    ListenAddress address;
    address.port = 0;
    server_.emplace(Listener::open(address), app_, HttpLimits{});
  }
  Reply get(const std::string& path) { return SocketClient(port()).get(path); }
  Reply post(const std::string& path, const std::string& body, const std::string& key = "") {
    const std::string header = key.empty() ? "" : "Authorization: Bearer " + key + "\r\n";
    return SocketClient(port()).post(path, body, header);
  }
  Reply act(uint32_t slot, const std::string& action, const std::string& body = kNamed,
            const std::string& key = "") {
    return post(fmt::format("/slots/{}?action={}", slot, action), body, key);
  }
  uint16_t port() const { return server_->listener().port(); }

 private:
  ServeApp app_;
  std::optional<HttpServer> server_;
};

inline std::string message_of(const Reply& reply) {
  return json::parse(reply.body)["error"]["message"].get<std::string>();
}

/// A model whose contexts are worth saving, and a folder for them.
struct Place {
  explicit Place(const engine::testing::SmallModel& of = engine::testing::long_model())
      : model(of) {}
  engine::testing::TestFolder folder;
  engine::testing::TemporaryModel model;
  EngineService::Options options() const {
    EngineService::Options options;
    options.n_parallel = 2;
    options.session_dir = folder.path("contexts");
    return options;
  }
};

/// What is said is text, each token of it.
inline json no_bytes() {
  json bias = json::object();
  for (const engine::TokenId token : {0, 1, engine::testing::kByteC3, engine::testing::kByteA9})
    bias[std::to_string(token)] = -100;
  return bias;
}

/// A server over a model from its start to its end.
struct Server {
  Server(const Place& place, const EngineService::Options& options, ServeApp::Options app = {},
         uint32_t n_ctx = kContext)
      : engine(opened(place, options, n_ctx)),
        service(EngineService::start(engine, options)),
        routes(std::make_unique<Routes>(*service, std::move(app))) {}
  ~Server() {
    routes.reset();
    EXPECT_TRUE(service->drain(kLong));
  }
  static engine::Engine opened(const Place& place, const EngineService::Options& options,
                               uint32_t n_ctx) {
    engine::EngineOptions of;
    of.model_path = place.model.path();
    of.n_ctx = n_ctx;
    of.chunk_rows = 16;
    of.n_threads = 1;  // beside other tests, two would wait for each other
    of.io = tiers::IoChoice::kThreads;
    EngineService::prepare(options, of);
    engine::Engine engine = engine::Engine::open(of);
    engine.load({});
    return engine;
  }
  /// The answer to a text: {"text", "prompt", "cached"}.
  json ask(const std::string& text, const std::string& key = "", uint32_t n = 5) {
    const json body = {{"prompt", text},     {"max_tokens", n},          {"temperature", 0},
                       {"ignore_eos", true}, {"logit_bias", no_bytes()}, {"seed", 1}};
    const Reply reply = routes->post("/v1/completions", body.dump(), key);
    EXPECT_EQ(reply.status, 200) << reply.body;
    const json answer = json::parse(reply.body);
    return {{"text", answer["choices"][0]["text"]},
            {"prompt", answer["usage"]["prompt_tokens"]},
            {"cached", answer["usage"]["prompt_tokens_details"]["cached_tokens"]}};
  }
  json act(uint32_t slot, const std::string& action, const std::string& body = kNamed,
           const std::string& key = "") {
    const Reply reply = routes->act(slot, action, body, key);
    EXPECT_EQ(reply.status, 200) << reply.body;
    return json::parse(reply.body);
  }
  engine::Engine engine;
  std::unique_ptr<EngineService> service;
  std::unique_ptr<Routes> routes;
};

inline std::string document_of(uint32_t seed, uint32_t n = 500) {
  std::mt19937 random(seed);
  std::string text;
  while (text.size() < n) text += engine::testing::drawn_letter(random);
  return text;
}

/// What is in the folder and around it.
inline std::vector<std::string> paths_in(const std::string& folder) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    paths.push_back(entry.path().string());
  return paths;
}

}  // namespace strata::serve::testing
