// What the user wants of a placement: weights, K and V where a pin says, times within limits.
#include "planner/placement/pins.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "planner/placement/placement.h"
#include "tests/planner/every_placement.h"
#include "tests/planner/random_problem.h"

namespace strata::planner {
namespace {

using testing::best_of_all;
using testing::every_placement;
using testing::random_problem;
using testing::split_problem;

/// A problem with pins drawn from its seed: of the first group's weights, or of K and V, or both;
/// every third of pieces too.
PlacementProblem pinned_problem(uint64_t seed, bool has_device) {
  PlacementProblem problem = seed % 3 == 0 ? split_problem(seed, has_device, 2, 3)
                                           : random_problem(seed, has_device, 2, 3);
  std::mt19937_64 random(seed);
  const auto tier = [&] { return static_cast<PlanTier>(random() % 3); };
  if (random() % 4 != 0) problem.groups[0].pin = just(tier());
  if (random() % 4 == 0) problem.groups[1].pin = {.hbm = false};
  if (random() % 2 == 0) problem.kv_pin = tier();
  return problem;
}

TEST(Pins, HoldAndNoOtherPlacementThatKeepsThemIsMuchBetter) {
  int n_planned = 0, n_refused = 0;
  for (const bool has_device : {false, true})
    for (uint64_t seed = 500; seed < 540; ++seed) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", device " << has_device);
      const PlacementProblem problem = pinned_problem(seed, has_device);
      const auto plan = plan_placement({&problem, 1}, /*with_duals=*/false);
      const double best = best_of_all(problem);
      if (!plan) {
        ++n_refused;
        EXPECT_EQ(best, INFINITY);
        continue;
      }
      ++n_planned;
      EXPECT_TRUE(fits(problem, plan->layers));
      EXPECT_GE(best, request_ms(problem, plan->layers) * 0.95);
      for (size_t g = 0; g < problem.groups.size(); ++g) {
        const TierSet& pin = problem.groups[g].pin;
        const GroupPlace& place = plan->layers.groups[g];
        EXPECT_TRUE(pin.hbm || place.n_hbm == 0);
        EXPECT_TRUE(pin.dram || place.n_dram == 0);
        EXPECT_TRUE(pin.nvme || place.n_nvme == 0);
        const auto tiers = weight_tiers(problem, plan->layers);
        if (const auto& apart = problem.groups[g].apart) {
          for (const uint32_t layer : problem.groups[g].layers)
            EXPECT_EQ(tiers[layer][static_cast<size_t>(apart->piece)], apart->tier);
        }
        const double held = problem.groups[g].n_held;
        if (problem.kv_pin == PlanTier::kHbm) {
          EXPECT_EQ(place.kv_hbm, held);
        }
        if (problem.kv_pin == PlanTier::kDram) {
          EXPECT_EQ(place.kv_dram, held);
        }
        if (problem.kv_pin == PlanTier::kNvme) {
          EXPECT_LT(place.kv_dram, 0.2 * held);  // the floor is a tenth, and whole blocks
        }
      }
    }
  EXPECT_GE(n_planned, 30);
  EXPECT_GE(n_refused, 10);
}

TEST(Pins, ProgramHoldsThemToo) {
  for (const PlanTier tier : {PlanTier::kHbm, PlanTier::kDram, PlanTier::kNvme}) {
    SCOPED_TRACE(plan_tier_name(tier));
    PlacementProblem problem = random_problem(7, true, 2, 3);
    problem.hbm_gb = problem.dram_gb = problem.nvme_gb = 1e3;
    problem.groups[0].pin = just(tier);
    problem.kv_pin = tier;
    const LpPlacement program = solve_placement(problem);
    ASSERT_TRUE(program.is_feasible);
    const GroupShares& shares = program.groups[0];
    const double weights[] = {shares.weights_hbm, shares.weights_dram, shares.weights_nvme};
    const double kv[] = {shares.kv_hbm, shares.kv_dram, shares.kv_nvme};
    EXPECT_NEAR(weights[static_cast<size_t>(tier)], 1, 1e-9);
    EXPECT_GT(kv[static_cast<size_t>(tier)], 0.75);  // on disk but for the floor
  }
}

TEST(Pins, ShortageCountsThem) {
  int n_lacking = 0;
  for (const bool has_device : {false, true})
    for (uint64_t seed = 600; seed < 640; ++seed) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", device " << has_device);
      PlacementProblem problem = pinned_problem(seed, has_device);
      // What no memory would help is refused before: tiers that are not there.
      const bool is_absent =
          !has_device && (!problem.groups[0].pin.dram && !problem.groups[0].pin.nvme);
      if (is_absent || (!has_device && problem.kv_pin == PlanTier::kHbm)) continue;
      problem.dram_gb *= 0.4;
      if (seed % 3 == 0) problem.nvme_gb *= 0.1;
      const auto lacks = shortage(problem);
      EXPECT_EQ(lacks.has_value(), !plan_placement({&problem, 1}, false).has_value());
      if (!lacks) continue;
      ++n_lacking;
      constexpr double kRounded = 1e-6;
      if (lacks->hbm_gb) problem.hbm_gb = *lacks->hbm_gb + kRounded;
      if (lacks->dram_gb) problem.dram_gb = *lacks->dram_gb + kRounded;
      if (lacks->nvme_gb) problem.nvme_gb = *lacks->nvme_gb + kRounded;
      EXPECT_TRUE(plan_placement({&problem, 1}, false));
    }
  EXPECT_GE(n_lacking, 20);
}

TEST(Pins, LatenessIsTheSharesBeyondTheLimits) {
  PlacementProblem problem;
  EXPECT_EQ(lateness(problem, 1e9, 1e9), 0);
  problem.ttft_max_ms = 100;
  problem.tpot_max_ms = 10;
  EXPECT_EQ(lateness(problem, 100, 10), 0);
  EXPECT_NEAR(lateness(problem, 150, 10), 0.5, 1e-12);
  EXPECT_NEAR(lateness(problem, 150, 30), 2.5, 1e-12);
}

TEST(Pins, LimitsThatCanBeKeptAre) {
  // Between the quickest token of all placements and that of the quickest request.
  int n_moved = 0, n_planned = 0;
  for (const bool has_device : {false, true})
    for (uint64_t seed = 700; seed < 730; ++seed) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", device " << has_device);
      PlacementProblem problem = random_problem(seed, has_device, 2, 3);
      problem.n_out = 1;  // the quickest request cares little for its tokens
      const auto free = plan_placement({&problem, 1}, false);
      if (!free) continue;
      double least = INFINITY;
      every_placement(problem, [&](const LayerPlacement& placement) {
        least = std::min(least, token_time(problem, placement).ms);
      });
      ++n_planned;
      problem.tpot_max_ms = least * 1.05;
      if (free->token.ms > problem.tpot_max_ms) ++n_moved;
      const auto plan = plan_placement({&problem, 1}, false);
      ASSERT_TRUE(plan);
      EXPECT_LE(plan->token.ms, problem.tpot_max_ms);
      problem.tpot_max_ms = least * 0.9;
      const auto late = plan_placement({&problem, 1}, false);
      ASSERT_TRUE(late);
      EXPECT_GT(lateness(problem, late->prompt.ms, late->token.ms), 0);
      EXPECT_LE(late->token.ms, least * 1.05);  // the nearest that there is
    }
  EXPECT_GE(n_planned, 40);
  EXPECT_GE(n_moved, 3);
}

}  // namespace
}  // namespace strata::planner
