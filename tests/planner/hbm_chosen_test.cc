// Room on a card for what a layer chooses of K and V: kept where these spill, and nowhere else.
#include <gtest/gtest.h>

#include <span>

#include "planner/placement/placement.h"
#include "planner/placement/placement_lp.h"
#include "tests/planner/small_problem.h"

namespace strata::planner {
namespace {

/// 0.4 GB of weights, which are to be on a card, 0.4 of K and V, and 0.2 of what a layer chooses.
PlacementProblem chosen_problem(double dram_gb, double hbm_gb) {
  PlacementProblem problem = small_problem(true);
  problem.may_stream = false;
  problem.may_attend_on_cpu = problem.may_compute_on_cpu = false;
  problem.groups[0].pin = just(PlanTier::kHbm);
  problem.hbm_gb = hbm_gb;
  problem.hbm_chosen_gb = 0.2;
  problem.dram_gb = dram_gb;
  return problem;
}

TEST(HbmChosen, IsNotKeptWhereKAndVDoNotSpill) {
  const PlacementProblem problem = chosen_problem(1, 0.45);
  EXPECT_FALSE(shortage(problem));
  const auto plan = plan_placement(std::span(&problem, 1));
  ASSERT_TRUE(plan);
  EXPECT_FALSE(plan->layers.is_spilling(problem));
  const PlacedGb gb = placed_gb(problem, plan->layers);
  EXPECT_EQ(gb.hbm_chosen, 0);
  EXPECT_NEAR(gb.hbm_kv, 0.05, 0.02);
}

TEST(HbmChosen, IsKeptWhereTheyDoAndKAndVThereCountTowardsIt) {
  const PlacementProblem small = chosen_problem(0.7, 0.55);
  ASSERT_TRUE(shortage(small));
  EXPECT_NEAR(*shortage(small)->hbm_gb, 0.6, kExact);
  const PlacementProblem problem = chosen_problem(0.7, 0.61);
  EXPECT_FALSE(shortage(problem));
  const auto plan = plan_placement(std::span(&problem, 1));
  ASSERT_TRUE(plan);
  EXPECT_TRUE(plan->layers.is_spilling(problem));
  const PlacedGb gb = placed_gb(problem, plan->layers);
  EXPECT_GT(gb.hbm_kv, 0.15);
  EXPECT_GE(gb.hbm_kv + gb.hbm_chosen, 0.2 - kExact);
  EXPECT_LE(gb.hbm(), problem.hbm_gb + kExact);
  EXPECT_LE(plan->lp_tpot_ms, plan->token.ms * (1 + kExact));
}

TEST(HbmChosen, LayersGiveWayToIt) {
  PlacementProblem problem = chosen_problem(0.7, 0.55);
  problem.groups[0].pin = {};
  EXPECT_FALSE(with_kv(problem, small_placement(4, 0, 0, 0, 0)));
  const auto placed = with_kv(problem, small_placement(3, 1, 0, 0, 0));
  ASSERT_TRUE(placed);
  EXPECT_NEAR(placed_gb(problem, *placed).hbm_weights, 0.3, kExact);
  problem.hbm_chosen_gb = 0.5;
  EXPECT_LE(solve_placement(problem).groups[0].weights_hbm, 0.125 + kExact);
}

}  // namespace
}  // namespace strata::planner
