// Plans of whole layers: never beyond a budget, no other placement much better, refusals that name
// what is missing.
#include "planner/placement/placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/planner/every_placement.h"
#include "tests/planner/random_problem.h"
#include "tests/planner/small_problem.h"

namespace strata::planner {
namespace {

using testing::best_of_all;
using testing::random_problem;
using testing::split_problem;
using testing::varied_problem;

/// In turns of full layers alone, of windows and the like, and of layers whose pieces are apart.
PlacementProblem any_problem(uint64_t seed, bool has_device) {
  return seed % 3 == 0   ? random_problem(seed, has_device, 2, 3)
         : seed % 3 == 1 ? varied_problem(seed, has_device, 2, 3)
                         : split_problem(seed, has_device, 2, 3);
}

TEST(Placement, NoOtherIsMoreThanATwentiethBetter) {
  int n_planned = 0;
  for (const bool has_device : {false, true})
    for (uint64_t seed = 100; seed < 130; ++seed) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", device " << has_device);
      const PlacementProblem problem = any_problem(seed, has_device);
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
  EXPECT_GE(n_planned, 45);
}

TEST(Placement, NoPromptTakesLessThanWhereAllOfItIsNear) {
  int n_placements = 0, n_at_floor = 0;
  for (const bool has_device : {false, true})
    for (uint64_t seed = 500; seed < 520; ++seed) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", device " << has_device);
      PlacementProblem problem = seed % 2 == 0 ? varied_problem(seed, has_device, 2, 3)
                                               : split_problem(seed, has_device, 2, 3);
      if (seed % 4 == 0) problem.rates.link_out /= 100;  // K and V come to DRAM more slowly
      const double floor_ms = prompt_floor_ms(problem);
      testing::every_placement(problem, [&](const LayerPlacement& placement) {
        const double ms = prompt_time(problem, placement).ms;
        EXPECT_GE(ms, floor_ms * (1 - 1e-9));
        ++n_placements;
        n_at_floor += ms < floor_ms * 1.001;
      });
    }
  EXPECT_GT(n_placements, 1000);
  EXPECT_GT(n_at_floor, 10);
}

TEST(Placement, ProgramsThatLearnOfWaitingEnd) {
  // Where layers wait for what a sum hides, the next program knows of it. Effort is counted, for a
  // clock would measure the machine.
  uint32_t n_repeated = 0;
  for (const bool has_device : {false, true})
    for (uint64_t seed = 100; seed < 125; ++seed) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", device " << has_device);
      const PlacementProblem problem = random_problem(seed, has_device, 2, 6);
      const auto plan = plan_placement({&problem, 1});
      if (!plan) continue;
      EXPECT_LE(plan->n_programs, 3u);
      EXPECT_LE(plan->n_iterations, 150u * plan->n_programs);
      if (plan->n_programs > 1) ++n_repeated;
      const double beside = plan->token.waits_ms + plan->token.busy_ms[0];
      EXPECT_GE(plan->token.ms, beside * (has_device ? 0 : 0.999));
    }
  EXPECT_GE(n_repeated, 5u);
}

TEST(Placement, LooksAtFewPlacementsHoweverManyLayersThereAre) {
  // As a 70B whose pins make four kinds of layers: some thousand clocks are well below a second.
  // They are counted, for a clock would measure the machine.
  for (const bool has_device : {false, true})
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      const PlacementProblem problem = random_problem(seed, has_device, 4, 20);
      const auto plan = plan_placement({&problem, 1}, /*with_duals=*/false);
      ASSERT_TRUE(plan);
      EXPECT_LE(plan->n_tried, 12'000u) << has_device;
      EXPECT_GT(plan->n_tried, 100u);
    }
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
    const PlacementProblem problem =
        seed % 2 == 0 ? varied_problem(seed, true, 2, 5) : split_problem(seed, true, 2, 5);
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

TEST(Placement, TheCpuComputesWhereTheLinkIsTheSlowerWay) {
  PlacementProblem problem = random_problem(3, true, 2, 8);
  for (LayerGroup& group : problem.groups) {
    group.cpu_linear_ms = group.weight_gb / 20 * 1e3;
    group.pin = just(PlanTier::kDram);
  }
  problem.dram_gb = 2 * (problem.weights_gb() + problem.kv_gb());
  problem.rates.dram_read = 100;
  const auto n_on_cpu = [&](double link, bool may_compute) {
    problem.rates.link_in = link;
    problem.may_compute_on_cpu = may_compute;
    const auto plan = plan_placement({&problem, 1}, /*with_duals=*/false);
    EXPECT_TRUE(plan);
    uint32_t n = 0;
    if (plan)
      for (const GroupPlace& place : plan->layers.groups) n += place.n_on_cpu;
    return n;
  };
  EXPECT_EQ(n_on_cpu(0.01, true), 16u);
  EXPECT_EQ(n_on_cpu(0.01, false), 0u);
  // As quick as the CPU: the link brings some while that computes the others.
  const uint32_t both = n_on_cpu(20, true);
  EXPECT_GT(both, 3u);
  EXPECT_LT(both, 13u);
  EXPECT_EQ(n_on_cpu(2000, true), 0u);
  // Stated, however slow: of every group's layers there.
  for (const auto& [share, n] : {std::pair{0.25, 4u}, std::pair{1.0, 16u}, std::pair{0.0, 0u}}) {
    problem.stated_products_share = share;
    EXPECT_EQ(n_on_cpu(2000, true), n);
    EXPECT_EQ(n_on_cpu(2000, false), 0u);
  }
  LayerPlacement refused{{{.n_dram = 8, .n_on_cpu = 1}, {.n_dram = 8}}, CpuPart::kNone};
  problem.may_compute_on_cpu = false;
  EXPECT_FALSE(with_kv(problem, refused));
}

/// The pin that llama.cpp's users know: every FFN in DRAM, where the CPU computes with it.
TEST(Placement, OfAPieceThatIsPinnedToDramTheCpuComputes) {
  PlacementProblem problem = small_problem(true);
  problem.n_prompt = problem.n_out = 500;
  problem.rates.link_in = 1;
  LayerGroup& group = problem.groups[0];
  group.apart = PieceApart{{.weight_gb = 0.075}, LayerPiece::kFfn, PlanTier::kDram};
  group.weight_gb = 0.025;
  const auto on_cpu = [&](std::optional<double> share) {
    problem.stated_products_share = share;
    const auto plan = plan_placement({&problem, 1}, /*with_duals=*/false);
    EXPECT_TRUE(plan);
    return plan ? cpu_products(problem, plan->layers) : std::vector<PieceSet>();
  };
  const PieceSet ffn{.ffn = true};
  EXPECT_EQ(on_cpu({}), std::vector<PieceSet>(4, ffn));
  EXPECT_EQ(on_cpu(0.5), (std::vector<PieceSet>{kNoPiece, ffn, kNoPiece, ffn}));
  problem.rates.link_in = 10000;
  EXPECT_EQ(on_cpu({}), std::vector<PieceSet>(4));
  problem.may_compute_on_cpu = false;
  EXPECT_EQ(on_cpu(1), std::vector<PieceSet>(4));
}

TEST(Placement, TheCpusShareIsOfWhatFullLayersLackInHbm) {
  PlacementProblem problem = small_problem(true);
  LayerPlacement placement = small_placement(4, 0, 0, 500, 500);
  EXPECT_EQ(cpu_share(problem, placement), 0);
  placement.cpu_part = CpuPart::kAll;
  EXPECT_EQ(cpu_share(problem, placement), 1);
  placement.cpu_part = CpuPart::kBalanced;
  EXPECT_NEAR(cpu_share(problem, placement), 5.5 / 7.5, kExact);
  placement.groups[0].kv_dram = 0;
  placement.groups[0].kv_hbm = 1000;
  EXPECT_EQ(cpu_share(problem, placement), 0);
  // Windows are the card's, whatever it lacks of them.
  placement = small_placement(4, 0, 0, 500, 500);
  problem.groups[0].window = 1000;
  placement.cpu_part = CpuPart::kAll;
  EXPECT_EQ(cpu_share(problem, placement), 0);
  EXPECT_NEAR(token_time(problem, placement).ms, 4 * (1 + 0.5 + 5) + 2, kExact);
  EXPECT_EQ(cpu_share(small_problem(false), placement), 0);
}

TEST(Placement, TheCpuAttendsWhereThatIsQuicker) {
  PlacementProblem problem = small_problem(true);
  problem.n_prompt = problem.n_out = 500;
  problem.hbm_gb = 0.4 + 0.2;  // all weights, and half of K and V
  problem.groups[0].pin = just(PlanTier::kHbm);
  const auto share = [&](double cpu_attend, double round_trip_ms, bool may_attend) {
    problem.rates.cpu_attend = cpu_attend;
    problem.rates.round_trip_ms = round_trip_ms;
    problem.may_attend_on_cpu = may_attend;
    const auto plan = plan_placement({&problem, 1}, /*with_duals=*/false);
    EXPECT_TRUE(plan);
    return plan ? cpu_share(problem, plan->layers) : -1;
  };
  // The link moves 10 GB/s, of some 0.04 GB a layer.
  EXPECT_GT(share(20, 0.01, true), 0.5);
  EXPECT_LT(share(20, 0.01, true), 0.9);
  EXPECT_EQ(share(20, 0.01, false), 0);
  EXPECT_EQ(share(20, 50, true), 0);  // the way there and back takes longer than all
  EXPECT_EQ(share(20000, 0.01, true), 1);
  // Not even where limits that cannot be kept make the search begin elsewhere.
  problem.tpot_max_ms = 1e-3;
  EXPECT_LE(share(20000, 0.01, false), 0);
  problem.tpot_max_ms = 0;
  // Stated, however slow.
  for (const double stated : {0.1, 0.6, 1.0}) {
    problem.stated_cpu_share = stated;
    EXPECT_NEAR(share(0.01, 50, true), stated, kExact);
  }
  problem.stated_cpu_share = 0;
  EXPECT_EQ(share(20000, 0.01, true), 0);
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
  problem.head_ms = problem.index_position_ms = problem.index_position_gb = 0;
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
      PlacementProblem problem = any_problem(seed, has_device);
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
