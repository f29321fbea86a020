// What docs/adr/0018-placed-once.md says of the CPU: a placement for the whole context does at
// every depth.
#include <gtest/gtest.h>

#include <algorithm>

#include "planner/placement/placement.h"
#include "tests/planner/random_problem.h"

namespace strata::planner {
namespace {

/// A token behind n positions of the problem's context.
PlacementProblem token_behind(PlacementProblem problem, double n) {
  problem.n_past = n;
  problem.n_prompt = 0;
  problem.n_out = 0;
  for (LayerGroup& group : problem.groups) group.n_held = n;
  problem.spill_floor_gb = std::min(problem.spill_floor_gb, problem.kv_gb());
  return problem;
}

/// The placement as far as that context goes.
LayerPlacement as_far(LayerPlacement placement, double n) {
  for (GroupPlace& place : placement.groups) place.kv_dram = std::min(place.kv_dram, n);
  return placement;
}

TEST(PlacedOnce, OfExactAttentionOnTheCpuNoDepthWantsAnotherPlacement) {
  int n_tried = 0, n_alike = 0, n_spilling = 0, n_streaming = 0;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    PlacementProblem whole = testing::random_problem(seed, /*has_device=*/false, 1, 12);
    whole.touched_share = 1;
    const auto once = plan_placement({&whole, 1}, /*with_duals=*/false);
    if (!once) continue;
    n_spilling += once->layers.is_spilling(whole);
    n_streaming += once->layers.is_streaming(whole);
    for (const double share : {0.1, 0.25, 0.5}) {
      const double n = share * whole.n_context();
      const PlacementProblem there = token_behind(whole, n);
      PlacementProblem wanted = there;
      wanted.n_out = 1;
      const auto anew = plan_placement({&wanted, 1}, /*with_duals=*/false);
      if (!anew) continue;
      ++n_tried;
      const double best = token_time(there, anew->layers).ms;
      n_alike += token_time(there, as_far(once->layers, n)).ms <= 1.01 * best;
    }
  }
  EXPECT_GE(n_tried, 100);
  EXPECT_GE(n_spilling, 5);
  EXPECT_GE(n_streaming, 5);
  EXPECT_GE(n_alike, n_tried * 9 / 10);
}

}  // namespace
}  // namespace strata::planner
