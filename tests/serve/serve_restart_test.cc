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
#include "tests/serve/wait_until.h"
#include "tiers/pack_format.h"

namespace strata::serve {
namespace {

using cli::testing::Outcome;
using nlohmann::json;
using testing::SocketClient;

// The first are read to their end, by nobody but the server that begins anew. The others are not:
// the server that reads them is ended long before.
constexpr uint64_t kLetters = 20000, kEndlessLetters = 60000;

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
  static std::string prompt(uint64_t n_letters) {
    return json{{"prompt", std::string(n_letters, 'a')}, {"max_tokens", 1}}.dump();
  }
  /// What the only slot has read so far.
  uint64_t n_read() const {
    const json slots = json::parse(SocketClient(port()).get("/slots").body, nullptr, false);
    return slots.is_array() && !slots.empty() ? slots[0]["n_past"].get<uint64_t>() : 0;
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
    client.request("POST", "/v1/completions", prompt(kEndlessLetters));
    (void)testing::wait_until(*process_, is_there, std::chrono::minutes(5));
    process_->signal(number);
    return process_->finish();
  }
  /// Of the beginning of the prompt, by a server that begins anew.
  uint64_t n_found() {
    start();
    const testing::Reply reply = SocketClient(port()).post("/v1/completions", prompt(kLetters));
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
  EXPECT_GE(n_found(), std::min(n, kLetters - 1) / kBlockPositions * kBlockPositions);
}

TEST_F(ServeRestart, PacksThatHadTheirNameWhenItWasKilledAreFound) {
  uint64_t n = 0;
  const Outcome outcome = end_while_it_reads(SIGKILL, [&] { return (n = n_packs()) >= 2; });
  EXPECT_EQ(outcome.exit_code, 128 + SIGKILL) << outcome.err;
  EXPECT_GE(n_found(), std::min(n, kLetters / tiers::kPackPositionsMax) * tiers::kPackPositionsMax);
}

}  // namespace
}  // namespace strata::serve
