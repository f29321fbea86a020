// Words for a placement: shares of K and V, parts at work.
#include "tools/cli/plan_words.h"

#include <gtest/gtest.h>

#include <algorithm>

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

/// As docs/adr/0004-no-hidden-states.md has them.
TEST(PlanWords, HiddenStatesPayWhereTheDecisionSaysThatTheyDo) {
  struct Case {
    const char* model;
    uint32_t d_model, n_kv_heads, head_dim;
    double ratio;  // of hidden states to K and V in f16
  };
  for (const Case& of :
       {Case{"Llama 2 7B", 4096, 32, 128, 1.0}, Case{"Gemma 7B", 3072, 16, 256, 0.75},
        Case{"Gemma 2 9B", 3584, 8, 256, 1.75}, Case{"Llama 3.1 8B", 4096, 8, 128, 4.0}}) {
    SCOPED_TRACE(of.model);
    ModelShape shape;
    shape.d_model = of.d_model;
    shape.head_dim = of.head_dim;
    shape.layers = {LayerShape{.n_kv_heads = of.n_kv_heads}};
    const double width = of.n_kv_heads * of.head_dim;
    const auto words = [&](double tflops, double bytes_per_value, double disk = 3) {
      planner::PlacementProblem problem;
      problem.rates.nvme_read = disk;
      planner::LayerGroup group;
      group.layers = {0};
      group.kv_gb = 2e-9 * width * bytes_per_value;
      group.gemm_tflop = 1e-4;
      group.cpu_gemm_ms = 1e3 * group.gemm_tflop / tflops;
      problem.groups = {group};
      return recompute_words(shape, problem);
    };
    const bool is_smaller = of.ratio < 1;
    for (const double tflops : {1.0, 36.0, 38.0}) {
      const RecomputeWords found = words(tflops, 2);
      EXPECT_NEAR(found.hidden_bytes / found.kv_bytes, of.ratio, 1e-9);
      EXPECT_EQ(found.could_win, is_smaller && tflops > 37) << tflops;
      EXPECT_EQ(found.text.find("so they cannot pay;") != std::string::npos, !is_smaller);
      EXPECT_EQ(found.split_gain > 0, is_smaller);
      if (!is_smaller) continue;
      // A byte in four is spared of what is made anew: as much as there is time for.
      const double share = 16384 / (3 * (4.0 * 3072 * 4096 / (tflops * 1e3)) + 4096);
      EXPECT_NEAR(found.split_gain, std::min(1.0, share) / 4, 1e-9);
      EXPECT_NE(found.text.find("pay from 12288 FLOP on for a byte of the disk"), std::string::npos)
          << found.text;
      EXPECT_NE(found.text.find(tflops > 37 ? ": they would pay" : ": they do not pay"),
                std::string::npos)
          << found.text;
    }
    EXPECT_FALSE(words(1000, 1.0625).could_win) << "q8_0";
    const RecomputeWords unmeasured = words(1000, 2, 0);
    EXPECT_FALSE(unmeasured.could_win);
    EXPECT_EQ(unmeasured.text.find("not known") != std::string::npos, is_smaller);
  }
}

}  // namespace
}  // namespace strata::cli
