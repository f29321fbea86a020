// Words for a placement: shares of K and V, parts at work.
#include "tools/cli/plan_words.h"

#include <gtest/gtest.h>

namespace strata::cli {
namespace {

TEST(PlanWords, OnDiskIsWhatSpillsAndNoRoundingError) {
  planner::PlacementProblem problem;
  problem.groups.resize(1);
  planner::LayerGroup& group = problem.groups[0];
  group.kv_gb = 768e-9;
  for (uint32_t i = 0; i < 24; ++i) group.layers.push_back(i);
  planner::LayerPlacement layers;
  layers.groups.resize(1);
  layers.groups[0].n_dram = 24;
  // Of some of these contexts the shares do not sum to 1.
  for (uint32_t n = 512; n <= 8192; n += 256) {
    group.n_held = layers.groups[0].kv_dram = n;
    EXPECT_EQ(kv_shares(problem, layers).file, 0) << n;
    layers.groups[0].kv_dram = n - 256;
    EXPECT_NEAR(kv_shares(problem, layers).file, 256.0 / n, 1e-9) << n;
  }
}

TEST(PlanWords, PartsAtWorkAreNamedWithTheirTimes) {
  planner::StepTime time;
  EXPECT_EQ(busy_text(time), "");
  time.busy_ms[static_cast<size_t>(planner::PlanPart::kCpu)] = 12.14;
  time.busy_ms[static_cast<size_t>(planner::PlanPart::kNvme)] = 1500;
  EXPECT_EQ(busy_text(time), "CPU 12.1 ms, NVMe 1.5 s");
}

}  // namespace
}  // namespace strata::cli
