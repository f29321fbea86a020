// Weights that are in a card's memory and not in DRAM: where they are so, what that takes, and what
// the planner makes of it.
#include <gtest/gtest.h>

#include <span>

#include "planner/placement/placement.h"
#include "tests/planner/small_problem.h"

namespace strata::planner {
namespace {

/// 0.4 GB of weights, 0.4 of K and V, and 0.15 for what comes from the file.
PlacementProblem alone_problem(double dram_gb) {
  PlacementProblem problem = small_problem(true);
  problem.stream_slots_gb = 0.15;
  problem.may_spill = false;
  problem.may_attend_on_cpu = problem.may_compute_on_cpu = false;
  problem.dram_gb = dram_gb;
  problem.n_out = 10;
  return problem;
}

std::optional<LayerPlacement> all_in_hbm(const PlacementProblem& problem) {
  return with_kv(problem, small_placement(4, 0, 0, 0, 0));
}

TEST(HbmAlone, IsWhatDramHasNoRoomFor) {
  EXPECT_FALSE(all_in_hbm(alone_problem(0.81))->is_hbm_alone);
  const PlacementProblem problem = alone_problem(0.79);
  const auto placed = all_in_hbm(problem);
  ASSERT_TRUE(placed);
  EXPECT_TRUE(placed->is_hbm_alone);
  const PlacedGb gb = placed_gb(problem, *placed);
  EXPECT_NEAR(gb.hbm_weights, 0.4, kExact);
  EXPECT_EQ(gb.dram_weights, 0);
  EXPECT_EQ(gb.dram_slots, 0.15);
  EXPECT_NEAR(gb.dram(), 0.55, kExact);
  EXPECT_TRUE(all_in_hbm(alone_problem(0.56)));
  EXPECT_FALSE(all_in_hbm(alone_problem(0.54)));
  PlacementProblem never = problem;
  never.may_stream = false;
  EXPECT_FALSE(all_in_hbm(never));
  EXPECT_NEAR(*shortage(alone_problem(0.5))->dram_gb, 0.55, kExact);
  EXPECT_NEAR(*shortage(never)->dram_gb, 0.8, kExact);
}

/// K and V that spill have steps of the CPU, which reads all weights: then DRAM keeps them.
TEST(HbmAlone, SavesKAndVFromSpillingOrLeavesTheCpuItsWeights) {
  PlacementProblem problem = alone_problem(0.6);
  problem.may_spill = true;
  const auto whole = all_in_hbm(problem);
  EXPECT_TRUE(whole->is_hbm_alone);
  EXPECT_FALSE(whole->is_spilling(problem));
  problem.dram_gb = 0.54;
  const auto spilling = all_in_hbm(problem);
  EXPECT_FALSE(spilling->is_hbm_alone);
  EXPECT_TRUE(spilling->is_spilling(problem));
}

/// Room for two layers on the card, and beside K and V for one in DRAM.
TEST(HbmAlone, ThePlannerFillsBothMemories) {
  PlacementProblem problem = alone_problem(0.66);
  problem.hbm_gb = 0.2;
  const auto plan = plan_placement(std::span(&problem, 1));
  ASSERT_TRUE(plan);
  EXPECT_TRUE(plan->layers.is_hbm_alone);
  EXPECT_EQ(plan->layers.groups[0].n_hbm, 2u);
  EXPECT_EQ(plan->layers.groups[0].n_dram, 1u);
  EXPECT_EQ(plan->layers.groups[0].n_nvme, 1u);
  EXPECT_LE(plan->lp_tpot_ms, plan->token.ms * (1 + kExact));
  EXPECT_NEAR(plan->dram.weights_gb, 0.1, kExact);
  // A pin of the card needs no room in DRAM either.
  problem.groups[0].pin = just(PlanTier::kHbm);
  problem.hbm_gb = 0.4;
  const auto pinned = plan_placement(std::span(&problem, 1));
  ASSERT_TRUE(pinned);
  EXPECT_TRUE(pinned->layers.is_hbm_alone);
  EXPECT_EQ(pinned->layers.groups[0].n_hbm, 4u);
}

}  // namespace
}  // namespace strata::planner
