#include "tools/serve/serve_metrics.h"

#include <gtest/gtest.h>

namespace strata::serve {
namespace {

bool has_line(const std::string& text, const std::string& line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

TEST(TimeHistogram, BucketsCountWhatIsNotAboveThem) {
  TimeHistogram histogram;
  for (const double seconds : {0.0078125, 0.5, 0.625, 1000.0, 1001.0}) histogram.add(seconds);
  const std::string text = histogram.text("t");
  EXPECT_TRUE(has_line(text, "t_bucket{le=\"0.01\"} 1"));
  EXPECT_TRUE(has_line(text, "t_bucket{le=\"0.2\"} 1"));
  EXPECT_TRUE(has_line(text, "t_bucket{le=\"0.5\"} 2"));
  EXPECT_TRUE(has_line(text, "t_bucket{le=\"1\"} 3"));
  EXPECT_TRUE(has_line(text, "t_bucket{le=\"1000\"} 4"));
  EXPECT_TRUE(has_line(text, "t_bucket{le=\"+Inf\"} 5"));
  EXPECT_TRUE(has_line(text, "t_sum 2002.1328125"));
  EXPECT_TRUE(has_line(text, "t_count 5"));
}

TEST(ServeMetrics, SaysEveryCountOfTheService) {
  ServeMetrics metrics;
  metrics.add_request("/health", 200);
  metrics.add_request("/health", 200);
  metrics.add_request("other", 404);
  metrics.add_first_token(0.3);
  EXPECT_TRUE(has_line(metrics.text(nullptr), "strata_loading 1"));
  ServiceCounts counts;
  counts.answered = 4;
  counts.cancelled = 1;
  counts.refused = 2;
  counts.prompt_tokens = 100;
  counts.cached_tokens = 60;
  counts.n_waiting = 3;
  counts.hit_rate = 0.75;
  counts.hbm_hit_rate = 0.5;
  counts.stalled_steps = 5;
  counts.stall_seconds = 1.5;
  counts.corrupt_blocks = 6;
  counts.read_retries = 7;
  counts.lost_extents = 8;
  counts.write_failures = 9;
  TierBytes tier;
  tier.name = "nvme";
  tier.budget_bytes = 1000;
  tier.kv_bytes = 10;
  tier.read_bytes = 20;
  counts.tiers = {tier};
  const std::string text = metrics.text(&counts);
  for (const char* line : {"strata_loading 0",
                           "strata_orders_total{end=\"answered\"} 4",
                           "strata_orders_total{end=\"cancelled\"} 1",
                           "strata_orders_total{end=\"refused\"} 2",
                           "strata_prompt_tokens_total 100",
                           "strata_cached_tokens_total 60",
                           "strata_orders_waiting 3",
                           "strata_block_hit_ratio 0.75",
                           "strata_hbm_hit_ratio 0.5",
                           "strata_stalled_steps_total 5",
                           "strata_corrupt_blocks_total 6",
                           "strata_stall_seconds_total 1.5",
                           "strata_read_retries_total 7",
                           "strata_lost_extents_total 8",
                           "strata_write_failures_total 9",
                           "strata_tier_budget_bytes{tier=\"nvme\"} 1000",
                           "strata_tier_bytes{tier=\"nvme\",kind=\"kv\"} 10",
                           "strata_tier_moved_bytes_total{tier=\"nvme\",direction=\"read\"} 20",
                           "strata_http_requests_total{route=\"/health\",status=\"200\"} 2",
                           "strata_http_requests_total{route=\"other\",status=\"404\"} 1",
                           "strata_first_token_seconds_count 1",
                           "# TYPE strata_first_token_seconds histogram"})
    EXPECT_TRUE(has_line(text, line)) << line;
}

TEST(ServeMetrics, EverySeriesStandsUnderItsType) {
  ServiceCounts counts;
  counts.tiers.resize(2);
  const std::string text = ServeMetrics().text(&counts);
  EXPECT_EQ(text.find("strata_hbm"), std::string::npos) << "there is no card";
  std::string family;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    if (line.starts_with("# TYPE ")) family = line.substr(7, line.find(' ', 7) - 7);
    if (line.starts_with('#')) continue;
    EXPECT_TRUE(line.starts_with(family)) << line;
  }
}

}  // namespace
}  // namespace strata::serve
