// A server that is stopped or killed while it reads a long prompt, and what the next one finds.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/serve/serve_process.h"
#include "tests/serve/socket_client.h"
#include "tiers/pack_format.h"

namespace strata::serve {
namespace {

using cli::testing::Outcome;
using nlohmann::json;
using testing::SocketClient;

constexpr uint64_t kLetters = 20000;

class ServeRestart : public testing::ServedTest {
 protected:
  ServeRestart() {
    engine::testing::SmallModelOptions options;
    options.n_ctx_train = 1 << 16;
    model_ = model(engine::testing::make_small_model(options));
    contexts_ = folder_.path("contexts");
  }
  void start() {
    serve(model_,
          {"--session-dir", contexts_, "-c", "64k", "-t", "1", "--parallel", "1", "--drain", "0"},
          {{"STRATA_NO_CACHE", "0"}});
  }
  static std::string prompt() {
    return json{{"prompt", std::string(kLetters, 'a')}, {"max_tokens", 1}}.dump();
  }
  /// What the only slot has read so far.
  uint64_t n_read() const {
    const json slots = json::parse(SocketClient(port()).get("/slots").body);
    return slots.empty() ? 0 : slots[0]["n_past"].get<uint64_t>();
  }
  uint64_t n_packs() const {
    uint64_t n = 0;
    for (const auto& entry : std::filesystem::directory_iterator(contexts_))
      if (!entry.path().filename().string().starts_with(".")) ++n;
    return n;
  }
  /// Asks, waits until `is_there`, and ends the server.
  template <class IsThere>
  Outcome end_while_it_reads(int number, const IsThere& is_there) {
    start();
    SocketClient client(port());
    client.request("POST", "/v1/completions", prompt());
    while (!is_there()) process_->read_for(std::chrono::milliseconds(1));
    process_->signal(number);
    return process_->finish();
  }
  /// Of the prompt, by a server that begins anew.
  uint64_t n_found() {
    start();
    const testing::Reply reply = SocketClient(port()).post("/v1/completions", prompt());
    EXPECT_EQ(reply.status, 200) << reply.body;
    const json usage = json::parse(reply.body)["usage"];
    EXPECT_GE(usage["prompt_tokens"].get<uint64_t>(), kLetters);
    return usage["prompt_tokens_details"]["cached_tokens"].get<uint64_t>();
  }

  std::string model_, contexts_;
};

TEST_F(ServeRestart, WhatWasReadWhenItWasStoppedIsFound) {
  uint64_t n = 0;
  const Outcome outcome = end_while_it_reads(SIGTERM, [&] { return (n = n_read()) > 5000; });
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("stopping: what was read is being saved, for 60 s at most\n"),
            std::string::npos)
      << outcome.err;
  EXPECT_NE(outcome.err.find("1 cancelled"), std::string::npos) << outcome.err;
  EXPECT_GE(n_found(), n / kBlockPositions * kBlockPositions);
}

TEST_F(ServeRestart, PacksThatHadTheirNameWhenItWasKilledAreFound) {
  uint64_t n = 0;
  const Outcome outcome = end_while_it_reads(SIGKILL, [&] { return (n = n_packs()) >= 2; });
  EXPECT_EQ(outcome.exit_code, 128 + SIGKILL) << outcome.err;
  EXPECT_GE(n_found(), n * tiers::kPackPositionsMax);
}

}  // namespace
}  // namespace strata::serve
