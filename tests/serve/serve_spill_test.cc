// What a server says of its tiers where K and V do not fit into memory: /metrics and /status beside
// each other, of a process.
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/engine/tiny_engine.h"
#include "tests/serve/serve_process.h"
#include "tests/serve/slot_server.h"
#include "tests/serve/wait_until.h"

namespace strata::serve {
namespace {

using nlohmann::json;
using testing::SocketClient;

/// "NAME{LABELS}" of every series.
std::map<std::string, double> series_of(const std::string& text) {
  std::map<std::string, double> series;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    const size_t space = line.rfind(' ');
    if (!line.starts_with('#')) series[line.substr(0, space)] = std::atof(&line[space + 1]);
  }
  return series;
}

class ServeSpill : public testing::ServedTest {
 protected:
  /// 16 layers, of whose K and V half of a prompt of 4,000 letters stays in memory.
  void start() {
    engine::testing::SmallModel small = engine::testing::make_small_model(
        {.n_layers = 16, .vocab_size = engine::testing::kLetterVocabulary, .n_ctx_train = 1 << 16});
    engine::testing::set_letters(small);
    engine::testing::draw_weights(small, 3);
    serve(model(small), {"--no-cache", "-c", "8k", "-b", "64", "-t", "1", "--parallel", "1",
                         "--kv-dram", "2816KiB", "--nvme", folder_.path("spill")});
  }
};

TEST_F(ServeSpill, ItsCountsSayWhatTheDiskDid) {
  start();
  const json body = {{"prompt", testing::document_of(1, 4000)},
                     {"max_tokens", 20},
                     {"ignore_eos", true},
                     {"logit_bias", testing::no_bytes()}};
  const testing::Reply reply = SocketClient(port()).post("/v1/completions", body.dump());
  ASSERT_EQ(reply.status, 200) << reply.body;
  // Counts are published behind the step that ended the answer.
  json status;
  const auto is_idle = [&] {
    status = json::parse(SocketClient(port()).get("/status").body, nullptr, false);
    return status.is_object() && status["n_busy"] == 0;
  };
  ASSERT_TRUE(testing::wait_until(*process_, is_idle, testing::kLong));
  const auto series = series_of(SocketClient(port()).get("/metrics").body);
  const auto value = [&](const std::string& name) {
    EXPECT_TRUE(series.contains(name)) << name;
    return series.contains(name) ? series.at(name) : -1;
  };
  const json& nvme = status["tiers"]["nvme"];
  // 16 KiB of K and V per layer and 256 positions, of which memory has 2816.
  constexpr double kMiB = 1 << 20;
  EXPECT_GT(value("strata_tier_moved_bytes_total{tier=\"nvme\",direction=\"written\"}"), kMiB);
  EXPECT_GT(value("strata_tier_moved_bytes_total{tier=\"nvme\",direction=\"read\"}"), 20 * kMiB);
  EXPECT_GT(value("strata_tier_bytes{tier=\"nvme\",kind=\"kv\"}"), kMiB);
  EXPECT_EQ(nvme["written_bytes"],
            value("strata_tier_moved_bytes_total{tier=\"nvme\",direction=\"written\"}"));
  EXPECT_EQ(nvme["read_bytes"],
            value("strata_tier_moved_bytes_total{tier=\"nvme\",direction=\"read\"}"));
  EXPECT_GT(value("strata_block_hit_ratio"), 0);
  EXPECT_LT(value("strata_block_hit_ratio"), 1);
  EXPECT_NEAR(status["hit_rate"].get<double>(), value("strata_block_hit_ratio"), 1e-9);
  EXPECT_GT(value("strata_stalled_steps_total"), 0);
  EXPECT_GT(value("strata_stall_seconds_total"), 0);
  EXPECT_EQ(status["stalled_steps"], value("strata_stalled_steps_total"));
  EXPECT_NEAR(status["stall_seconds"].get<double>(), value("strata_stall_seconds_total"), 1e-9);
  for (const char* fault : {"corrupt_blocks", "read_retries", "lost_extents", "write_failures"}) {
    EXPECT_EQ(status[fault], 0) << fault;
    EXPECT_EQ(value(std::string("strata_") + fault + "_total"), 0) << fault;
  }
}

}  // namespace
}  // namespace strata::serve
