// Plans of whole layers: never beyond a budget, no other placement much better, refusals that name
// what is missing.
#include "planner/placement/placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/planner/random_problem.h"

namespace strata::planner {
namespace {

using testing::random_problem;

/// Every number of layers of a group in each tier.
std::vector<GroupPlace> places_of(const PlacementProblem& problem, const LayerGroup& group) {
  std::vector<GroupPlace> places;
  const auto n = static_cast<uint32_t>(group.layers.size());
  for (uint32_t n_hbm = 0; n_hbm <= (problem.has_device ? n : 0); ++n_hbm)
    for (uint32_t n_dram = 0; n_dram + n_hbm <= n; ++n_dram)
      places.push_back({.n_hbm = n_hbm, .n_dram = n_dram, .n_nvme = n - n_hbm - n_dram});
  return places;
}

/// The best time over all layers' places, all that may attend, and shares of the K and V that fit.
double best_of_all(const PlacementProblem& problem) {
  double best = INFINITY;
  for (const GroupPlace& first : places_of(problem, problem.groups[0]))
    for (const GroupPlace& second : places_of(problem, problem.groups[1]))
      for (const CpuPart part : {CpuPart::kNone, CpuPart::kBalanced, CpuPart::kAll}) {
        const LayerPlacement counted{{first, second}, part};
        const auto placement = with_kv(problem, counted);
        if (!placement) continue;
        for (const double kept : {1.0, 0.75, 0.5, 0.0}) {
          LayerPlacement fewer = *placement;
          for (GroupPlace& place : fewer.groups) {
            const double moved = std::floor(place.kv_hbm * (1 - kept) / 32) * 32;
            place.kv_hbm -= moved;
            place.kv_dram += moved;
          }
          if (fits(problem, fewer)) best = std::min(best, request_ms(problem, fewer));
        }
      }
  return best;
}

TEST(Placement, NoOtherIsMoreThanATwentiethBetter) {
  int n_planned = 0;
  for (const bool has_device : {false, true})
    for (uint64_t seed = 100; seed < 120; ++seed) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", device " << has_device);
      const PlacementProblem problem = random_problem(seed, has_device, 2, 3);
      const auto plan = plan_placement({&problem, 1});
      const double best = best_of_all(problem);
      if (!plan) {
        EXPECT_EQ(best, INFINITY);
        EXPECT_TRUE(shortage(problem));
        continue;
      }
      ++n_planned;
      EXPECT_FALSE(shortage(problem));
      EXPECT_TRUE(fits(problem, plan->layers));
      EXPECT_GE(best, request_ms(problem, plan->layers) * 0.95);
    }
  EXPECT_GE(n_planned, 30);
}

TEST(Placement, RoundingLosesLittleToTheProgram) {
  // Layers make steps: with many of them the rounded placement comes near the program's optimum.
  int n_planned = 0;
  for (uint64_t seed = 200; seed < 210; ++seed) {
    SCOPED_TRACE(seed);
    const PlacementProblem problem = random_problem(seed, false, 1, 48);
    const auto plan = plan_placement({&problem, 1});
    if (!plan) continue;
    ++n_planned;
    const double of_program = plan->lp_ttft_ms + problem.n_out * plan->lp_tpot_ms;
    EXPECT_LE(request_ms(problem, plan->layers), 1.15 * of_program);
    EXPECT_GE(request_ms(problem, plan->layers), 0.999 * of_program);
  }
  EXPECT_GE(n_planned, 8);
}

TEST(Placement, TiersHoldWhatTheyHaveAndSumUp) {
  int n_planned = 0;
  for (uint64_t seed = 300; seed < 320; ++seed) {
    SCOPED_TRACE(seed);
    const PlacementProblem problem = random_problem(seed, true, 2, 5);
    const auto plan = plan_placement({&problem, 1});
    if (!plan) continue;
    ++n_planned;
    EXPECT_GE(plan->hbm.free_gb(), -1e-9);
    EXPECT_GE(plan->dram.free_gb(), -1e-9);
    EXPECT_GE(plan->nvme.free_gb(), -1e-9);
    // DRAM is the home of what HBM holds.
    EXPECT_GE(plan->dram.kv_gb, plan->hbm.kv_gb - 1e-9);
    EXPECT_GT(plan->token.ms, 0);
    EXPECT_GT(plan->prompt.ms, 0);
  }
  EXPECT_GE(n_planned, 15);
}

TEST(Placement, TakesTheBetterOfTwoProblems) {
  PlacementProblem slow = random_problem(1, false);
  slow.dram_gb = 10 * (slow.weights_gb() + slow.kv_gb());
  slow.rates.dram_read = 1000;
  PlacementProblem quick = slow;
  quick.rates.cpu_attend *= 2;
  const std::vector<PlacementProblem> both{slow, quick};
  const auto plan = plan_placement(both);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->choice, 1u);
}

TEST(Placement, DualsSayWhatMoreWouldBring) {
  PlacementProblem problem = random_problem(2, false, 1, 16);
  problem.touched_share = 1;
  problem.dram_gb = problem.dram_fixed_gb + problem.always_weights_gb + problem.kv_beside_gb +
                    problem.kv_gb() + problem.stream_slots_gb + 0.5 * problem.weights_gb();
  problem.rates.nvme_read = 0.5;  // half of the weights from a slow disk
  const auto plan = plan_placement({&problem, 1});
  ASSERT_TRUE(plan);
  const auto dual = [&](const std::string& resource) {
    return *std::ranges::find(plan->duals, resource, &PlanDual::resource);
  };
  EXPECT_LT(dual("dram").tpot_ms, -0.05 * plan->lp_tpot_ms);
  EXPECT_NEAR(dual("nvme_read").tpot_ms, -plan->lp_tpot_ms * (1 - 1 / 1.1),
              0.02 * plan->lp_tpot_ms);
  EXPECT_NEAR(dual("nvme").tpot_ms, 0, 1e-6);
  EXPECT_EQ(plan->token.binding(), PlanPart::kNvme);
}

TEST(Placement, DualsTellMemorysPaceFromTheCpus) {
  PlacementProblem problem = random_problem(3, false, 1, 8);
  problem.dram_gb = 10 * (problem.weights_gb() + problem.kv_gb());
  problem.touched_share = 1;
  problem.head_ms = problem.index_scan_ms = 0;
  problem.rates.dram_read = 0.5;  // slower than all that the CPU does
  const auto plan = plan_placement({&problem, 1});
  ASSERT_TRUE(plan);
  const auto tpot_of = [&](const std::string& resource) {
    const auto dual = std::ranges::find(plan->duals, resource, &PlanDual::resource);
    return dual == plan->duals.end() ? NAN : dual->tpot_ms;
  };
  EXPECT_NEAR(tpot_of("dram_read"), -plan->lp_tpot_ms * (1 - 1 / 1.1), 0.01 * plan->lp_tpot_ms);
  EXPECT_NEAR(tpot_of("cpu"), 0, 1e-3 * plan->lp_tpot_ms);
}

TEST(Placement, ShortageNamesTheLeastThatWouldDo) {
  int n_lacking = 0;
  for (const bool has_device : {false, true})
    for (uint64_t seed = 400; seed < 440; ++seed) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", device " << has_device);
      PlacementProblem problem = random_problem(seed, has_device, 2, 3);
      problem.dram_gb *= 0.2;
      if (has_device) problem.hbm_gb *= 0.2;
      if (seed % 2 == 0) problem.nvme_gb = 0;
      const auto lacks = shortage(problem);
      EXPECT_EQ(lacks.has_value(), !plan_placement({&problem, 1}).has_value());
      if (!lacks) continue;
      ++n_lacking;
      // With what is named there is a plan; with a little less of any of it there is none.
      constexpr double kRounded = 1e-6;
      PlacementProblem enough = problem;
      if (lacks->hbm_gb) enough.hbm_gb = *lacks->hbm_gb + kRounded;
      if (lacks->nvme_gb && seed % 4 == 0) {
        enough.nvme_gb = *lacks->nvme_gb + kRounded;
      } else if (lacks->dram_gb) {
        enough.dram_gb = *lacks->dram_gb + kRounded;
      }
      EXPECT_FALSE(shortage(enough));
      EXPECT_TRUE(plan_placement({&enough, 1}));
      if (lacks->dram_gb) {
        enough = problem;
        enough.hbm_gb = 1e3;
        enough.dram_gb = *lacks->dram_gb - kRounded;
        EXPECT_FALSE(plan_placement({&enough, 1}));
      }
    }
  EXPECT_GE(n_lacking, 40);
}

}  // namespace
}  // namespace strata::planner
