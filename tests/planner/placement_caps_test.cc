// Caps of weights and of K and V within DRAM's budget: kept by plans and by the linear program, and
// nothing where they are wider than what is used.
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "planner/placement/placement.h"
#include "tests/planner/random_problem.h"

namespace strata::planner {
namespace {

using testing::random_problem;

constexpr double kByte = 1e-9;

double weights_gb(const PlacedGb& gb) { return gb.dram_weights + gb.dram_slots; }
double kv_gb(const PlacementProblem& problem, const PlacedGb& gb) {
  return gb.dram_kv + gb.kv_beside + problem.index_gb;
}

/// What the program's shares put into DRAM.
double weights_gb(const PlacementProblem& problem, const LpPlacement& program) {
  double gb = problem.always_weights_gb;
  for (size_t g = 0; g < problem.groups.size(); ++g)
    gb += (program.groups[g].weights_hbm - program.groups[g].hbm_alone +
           program.groups[g].weights_dram) *
          problem.groups[g].n_layers() * problem.groups[g].weight_gb;
  return gb;
}
double kv_gb(const PlacementProblem& problem, const LpPlacement& program) {
  double gb = problem.kv_beside_gb + problem.index_gb;
  for (size_t g = 0; g < problem.groups.size(); ++g)
    gb += (program.groups[g].kv_hbm + program.groups[g].kv_dram) * problem.groups[g].n_layers() *
          problem.groups[g].n_held * problem.groups[g].kv_gb;
  return gb;
}

TEST(PlacementCaps, BoundWhatPlansAndProgramsPutIntoDram) {
  int n_bound = 0;
  for (const bool has_device : {false, true})
    for (uint64_t seed = 300; seed < 320; ++seed) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", device " << has_device);
      const PlacementProblem free = random_problem(seed, has_device, 2, 4);
      const auto plan = plan_placement({&free, 1}, /*with_duals=*/false);
      if (!plan) continue;
      const PlacedGb used = placed_gb(free, plan->layers);
      const double ms = request_ms(free, plan->layers);
      PlacementProblem wide = free;
      wide.weights_cap_gb = wide.kv_cap_gb = 1000;
      const auto same = plan_placement({&wide, 1}, /*with_duals=*/false);
      ASSERT_TRUE(same);
      EXPECT_NEAR(request_ms(wide, same->layers), ms, 1e-6 * ms);
      for (const bool is_of_weights : {true, false}) {
        PlacementProblem capped = free;
        (is_of_weights ? capped.weights_cap_gb : capped.kv_cap_gb) =
            0.8 * (is_of_weights ? weights_gb(used) : kv_gb(free, used));
        const auto found = plan_placement({&capped, 1}, /*with_duals=*/false);
        if (!found) continue;
        ++n_bound;
        const PlacedGb gb = placed_gb(capped, found->layers);
        EXPECT_LE(weights_gb(gb), capped.weights_cap_gb + kByte);
        EXPECT_LE(kv_gb(capped, gb), capped.kv_cap_gb + kByte);
        const LpPlacement program = solve_placement(capped);
        ASSERT_TRUE(program.is_feasible);
        EXPECT_LE(weights_gb(capped, program), capped.weights_cap_gb + 1e-6);
        EXPECT_LE(kv_gb(capped, program), capped.kv_cap_gb + 1e-6);
      }
    }
  EXPECT_GT(n_bound, 20);
}

TEST(PlacementCaps, ShortageNamesTheOneThatBinds) {
  int n_weights = 0, n_kv = 0;
  for (const bool has_device : {false, true})
    for (uint64_t seed = 340; seed < 380; ++seed) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", device " << has_device);
      PlacementProblem problem = random_problem(seed, has_device, 2, 3);
      if (!plan_placement({&problem, 1}, false)) continue;
      if (seed % 3 == 0) problem.kv_pin = PlanTier::kDram;
      if (seed % 4 == 0)
        for (LayerGroup& group : problem.groups)
          group.pin = {.hbm = false, .dram = true, .nvme = false};
      if (!plan_placement({&problem, 1}, false)) continue;
      if (seed % 2 == 0) problem.weights_cap_gb = 0.5 * problem.weights_gb();
      if (seed % 5 != 0) problem.kv_cap_gb = 0.3 * problem.kv_gb();
      const auto lacks = shortage(problem);
      EXPECT_EQ(lacks.has_value(), !plan_placement({&problem, 1}, false).has_value());
      if (!lacks) continue;
      EXPECT_FALSE(lacks->dram_gb || lacks->hbm_gb || lacks->nvme_gb);
      n_weights += lacks->weights_cap_gb ? 1 : 0;
      n_kv += lacks->kv_cap_gb ? 1 : 0;
      constexpr double kRounded = 1e-6;
      for (const double change : {-kRounded, kRounded}) {
        PlacementProblem changed = problem;
        if (lacks->weights_cap_gb) changed.weights_cap_gb = *lacks->weights_cap_gb + change;
        if (lacks->kv_cap_gb) changed.kv_cap_gb = *lacks->kv_cap_gb + change;
        EXPECT_EQ(plan_placement({&changed, 1}, false).has_value(), change > 0);
      }
    }
  EXPECT_GE(n_weights, 5);
  EXPECT_GE(n_kv, 5);
}

TEST(PlacementCaps, LayersArePutWhereTheirCountsSay) {
  PlacementProblem problem = random_problem(1, true, 2, 6);
  std::swap(problem.groups[0].layers[5], problem.groups[1].layers[0]);  // 0-4 and 6, 5 and 7-11
  std::ranges::sort(problem.groups[0].layers);
  std::ranges::sort(problem.groups[1].layers);
  const LayerPlacement counted{{{.n_hbm = 2, .n_dram = 1, .n_nvme = 3}, {.n_dram = 6}}};
  const std::vector<PieceTiers> tiers = weight_tiers(problem, counted);
  ASSERT_EQ(tiers.size(), 12u);
  const auto count = [&](const LayerGroup& group, PlanTier tier) {
    return std::ranges::count_if(group.layers, [&](uint32_t i) {
      return tiers[i] == PieceTiers{tier, tier};
    });
  };
  EXPECT_EQ(count(problem.groups[0], PlanTier::kHbm), 2);
  EXPECT_EQ(count(problem.groups[0], PlanTier::kDram), 1);
  EXPECT_EQ(count(problem.groups[0], PlanTier::kNvme), 3);
  EXPECT_EQ(count(problem.groups[1], PlanTier::kDram), 6);
  EXPECT_EQ(tiers[5], (PieceTiers{PlanTier::kDram, PlanTier::kDram}));
}

}  // namespace
}  // namespace strata::planner
