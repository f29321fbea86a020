// What a placement's tokens and prompts should take, and what a run says of that.
#include "tools/cli/placed_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tools/cli/plan_notices.h"

namespace strata::cli {
namespace {

/// One group of four layers, all in memory, whose token takes 4 * 2.5 ms and the head 2.
PlacedPlan twelve_ms(bool is_measured) {
  PlacedPlan plan;
  plan.problem.rates.cpu_attend = plan.problem.rates.dram_read = 100;
  plan.problem.head_ms = 2;
  plan.problem.dram_gb = 1;
  planner::LayerGroup group;
  group.layers = {0, 1, 2, 3};
  group.cpu_linear_ms = 2.5;
  group.n_held = 1024;
  plan.problem.groups = {group};
  plan.layers.groups = {{.n_dram = 4, .kv_dram = 1024}};
  if (is_measured) plan.subject.request.profile.measured_at = "2026-11-26T13:20:00Z";
  return plan;
}

/// Behind n_before positions.
std::vector<engine::LoneStep> steps_of(size_t n, float ms, size_t n_before = 100) {
  std::vector<engine::LoneStep> steps;
  while (steps.size() < n) steps.push_back({static_cast<uint32_t>(n_before + steps.size()), ms});
  return steps;
}

TEST(PlanDrift, IsSaidOfFiftyTokensWhoseMedianIsAFifthOff) {
  const PlacedPlan plan = twelve_ms(true);
  ASSERT_NEAR(plan.token_at(100).ms, 12, 1e-6);
  const auto line = [&](size_t n, float ms) {
    std::vector<engine::LoneStep> steps = steps_of(n, ms);
    steps.front().ms = 1000;  // of one token alone nothing follows
    return drift_line(plan, steps);
  };
  EXPECT_EQ(line(50, 14.3F), "");
  EXPECT_EQ(line(50, 9.7F), "");
  EXPECT_EQ(line(49, 20), "");
  for (const float ms : {14.5F, 9.5F}) {
    const std::string said = line(50, ms);
    EXPECT_NE(said.find("12.0 ms were predicted"), std::string::npos) << said;
    EXPECT_NE(said.find("`strata calibrate`"), std::string::npos) << said;
  }
  EXPECT_EQ(drift_line(twelve_ms(false), steps_of(50, 20)), "");
}

TEST(PlanDrift, IsOfFiftyTokensOneAfterTheOtherAndOfTheLastThatAreOff) {
  const PlacedPlan plan = twelve_ms(true);
  std::vector<engine::LoneStep> steps = steps_of(230, 12);
  EXPECT_EQ(drift_line(plan, steps), "");
  // A fifth of an answer is slow: its median is as predicted.
  const auto slow_down = [&](size_t first, float ms) {
    for (size_t i = first; i < first + 50; ++i) steps[i].ms = ms;
  };
  slow_down(80, 20);
  EXPECT_NE(drift_line(plan, steps).find("20.0 ms (the median of 50)"), std::string::npos)
      << drift_line(plan, steps);
  slow_down(180, 30);
  EXPECT_NE(drift_line(plan, steps).find("30.0 ms (the median of 50)"), std::string::npos)
      << drift_line(plan, steps);
}

/// The same with room in memory for half of the context, whose K and V take 1 MB a position and
/// layer.
PlacedPlan half_on_disk() {
  PlacedPlan plan = twelve_ms(true);
  plan.problem.rates.nvme_read = 1;
  plan.problem.groups[0].kv_gb = 1e-3;
  plan.layers.groups[0].kv_dram = 512;
  return plan;
}

TEST(PlanPrices, AShortContextOfASpillingPlacementReadsNothing) {
  const PlacedPlan plan = half_on_disk();
  constexpr auto kNvme = static_cast<size_t>(planner::PlanPart::kNvme);
  // 0.1 GB a layer, 1 ms of attention each.
  EXPECT_NEAR(plan.token_at(100).ms, 12 + 4, 1e-6);
  EXPECT_EQ(plan.token_at(512).busy_ms[kNvme], 0);
  EXPECT_NEAR(plan.token_at(768).busy_ms[kNvme], 4 * 256, 1e-6);
  EXPECT_NEAR(plan.token_at(768, {.disk = 0.5}).busy_ms[kNvme], 8 * 256, 1e-6);
}

TEST(PlanPrices, ABudgetOfTokensIsAnotherShareOfAnotherContext) {
  PlacedPlan plan = half_on_disk();
  plan.problem.touched_positions = 128;
  EXPECT_NEAR(plan.token_at(100).ms, 12 + 4, 1e-6);
  for (const double n : {128.0, 256.0, 512.0})
    EXPECT_NEAR(plan.token_at(n).ms, 12 + 4 * 1.28, 1e-6) << n;
}

TEST(PlanPrices, APromptBehindACachedContextTakesWhatItsOwnChunksTake) {
  PlacedPlan plan = twelve_ms(true);
  plan.problem.chunk_rows = 512;
  plan.problem.groups[0].n_held = plan.layers.groups[0].kv_dram = 16384;
  plan.problem.groups[0].cpu_gemm_ms = 0.1;
  plan.problem.groups[0].attend_tflop = 1e-9;
  plan.problem.rates.cpu_attend_tflops = 0.01;
  // Each row and layer 0.1 ms, and 1e-4 ms for each position behind which it stands; the head 2.
  for (const double n_cached : {0.0, 8000.0, 16000.0})
    EXPECT_NEAR(plan.prompt_behind(n_cached, 20).ms, 4 * 20 * (0.1 + 1e-4 * (n_cached + 10)) + 2,
                1e-6)
        << n_cached;
}

TEST(PlanDrift, IsNotSaidWhereWhatATokenAttendsDependsOnTheText) {
  PlacedPlan plan = twelve_ms(true);
  EXPECT_NE(drift_line(plan, steps_of(50, 20)), "");
  plan.subject.knows_touched = false;
  EXPECT_EQ(drift_line(plan, steps_of(50, 20)), "");
}

TEST(PlanDrift, IsNotSaidOfAShortContextThatASpillingPlacementHasInMemory) {
  const PlacedPlan plan = half_on_disk();
  EXPECT_EQ(drift_line(plan, steps_of(50, 17)), "");
  EXPECT_NE(drift_line(plan, steps_of(50, 17, 700)), "");
}

TEST(PlanDrift, IsBesideWhatIsPredictedWhereTheStepsStood) {
  const PlacedPlan plan = half_on_disk();
  const auto ms = static_cast<float>(plan.token_at(425).ms);
  EXPECT_NE(drift_line(plan, steps_of(50, ms)), "");
  EXPECT_EQ(drift_line(plan, steps_of(50, ms, 400)), "");
}

}  // namespace
}  // namespace strata::cli
