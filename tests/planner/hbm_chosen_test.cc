// Room on a card where a token chooses what it attends: for what a layer chooses of K and V, kept
// where these spill and nowhere else; for rows of the index, which the card searches in place of
// the CPU, and what that saves.
#include <gtest/gtest.h>

#include <array>
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

/// 0.4 GB of weights, 0.4 of K and V, of which a tenth is attended, and 0.3 of rows.
PlacementProblem searched_problem(bool by_card, double hbm_gb = 100) {
  PlacementProblem problem = small_problem(true);
  problem.may_stream = false;
  problem.may_attend_on_cpu = problem.may_compute_on_cpu = false;
  problem.n_out = 2;
  problem.touched_share = 0.1;
  problem.rates.round_trip_ms = 0.5;
  problem.index_gb = 0.3;
  problem.index_position_ms = 0.02;    // 20 ms of the CPU
  problem.index_position_gb = 0.0003;  // 0.3 GB
  problem.hbm_gb = hbm_gb;
  if (!by_card) return problem;
  problem.hbm_index_gb = 0.3;
  problem.index_position_link_gb = 1e-5;  // 0.01 GB
  return problem;
}

double busy(const StepTime& time, PlanPart part) { return time.busy_ms[static_cast<size_t>(part)]; }

TEST(HbmIndex, IsReadAtTheCardsRate) {
  const PlacementProblem by_cpu = searched_problem(false), by_card = searched_problem(true);
  const LayerPlacement layers = small_placement(4, 0, 0, 1000, 0);
  const double n = by_card.n_decode_positions();
  const double scan = 0.0003 * n / 100 * 1e3, link = 1e-5 * n / 10 * 1e3;
  const StepTime cpu = token_time(by_cpu, layers), card = token_time(by_card, layers);
  EXPECT_NEAR(busy(cpu, PlanPart::kCpu), 0.02 * n, kExact);
  EXPECT_NEAR(busy(card, PlanPart::kCpu), 0, kExact);
  EXPECT_NEAR(busy(card, PlanPart::kDram), 0, kExact);
  EXPECT_NEAR(busy(card, PlanPart::kGpu), busy(cpu, PlanPart::kGpu) + scan, kExact);
  EXPECT_NEAR(busy(card, PlanPart::kLinkOut), link, kExact);
  EXPECT_NEAR(card.ms, cpu.ms - 0.02 * n + scan + link, kExact);
  // The host still chooses: of each layer it is waited for.
  PlacementProblem at_once = by_card;
  at_once.rates.round_trip_ms = 0;
  EXPECT_NEAR(token_time(at_once, layers).ms, card.ms - 4 * 0.5, kExact);
  EXPECT_NEAR(prompt_time(by_card, layers).ms, prompt_time(by_cpu, layers).ms, kExact);
}

TEST(HbmIndex, TakesRoomThere) {
  const LayerPlacement all_there = small_placement(4, 0, 0, 0, 0);
  EXPECT_TRUE(with_kv(searched_problem(true, 0.71), all_there));
  EXPECT_FALSE(with_kv(searched_problem(true, 0.69), all_there));
  EXPECT_TRUE(with_kv(searched_problem(false, 0.41), all_there));
  const PlacementProblem problem = searched_problem(true, 0.9);
  const auto placed = with_kv(problem, all_there);
  ASSERT_TRUE(placed);
  const PlacedGb gb = placed_gb(problem, *placed);
  EXPECT_NEAR(gb.hbm_index, 0.3, kExact);
  EXPECT_NEAR(gb.hbm_kv, 0.2, 0.02);
  EXPECT_LE(gb.hbm(), problem.hbm_gb + kExact);
  PlacementProblem pinned = problem;
  pinned.groups[0].pin = just(PlanTier::kHbm);
  EXPECT_NEAR(solve_placement(pinned).groups[0].kv_hbm, 0.5, kExact);
  EXPECT_FALSE(shortage(problem));
  const PlacementProblem none = searched_problem(true, 0.2);
  ASSERT_TRUE(shortage(none));
  EXPECT_NEAR(shortage(none)->hbm_gb.value_or(0), 0.3, kExact);
}

/// Of a card that is large enough, and of one on which rows would drive weights out.
TEST(HbmIndex, ThePlannerSaysWhoSearches) {
  const auto by_card = [](double hbm_gb) {
    const std::array problems = {searched_problem(false, hbm_gb), searched_problem(true, hbm_gb)};
    const auto plan = plan_placement(problems, /*with_duals=*/false);
    EXPECT_TRUE(plan);
    const PlacementProblem& of = problems[plan->choice];
    EXPECT_NEAR(plan->hbm.index_gb, of.hbm_index_gb, kExact);
    EXPECT_NEAR(plan->dram.index_gb, 0.3, kExact);  // their home
    EXPECT_LE(plan->lp_tpot_ms, plan->token.ms * (1 + kExact));
    return of.card_searches();
  };
  EXPECT_TRUE(by_card(100));
  EXPECT_TRUE(by_card(0.75));
  EXPECT_FALSE(by_card(0.42));
  EXPECT_FALSE(by_card(0.2));
}

}  // namespace
}  // namespace strata::planner
