// A token's products with weights in DRAM, by the CPU beside a card: what they take by the clocks.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "planner/placement/placed_layers.h"
#include "tests/planner/small_problem.h"

namespace strata::planner {
namespace {

TEST(CpuProducts, WhatTheCpuComputesBesideACardPassesNoLink) {
  PlacementProblem problem = small_problem(true);
  problem.rates.round_trip_ms = 0.5;
  problem.rates.sharing_ms = 0.25;
  LayerPlacement placement = small_placement(0, 4, 0, 1000, 0);
  // Four layers of 10 ms across the link; products and attention of 1 ms each, and the head.
  const StepTime passing = token_time(problem, placement);
  EXPECT_NEAR(passing.ms, 40, kExact);
  const StepTime prompt = prompt_time(problem, placement);
  placement.groups[0].n_on_cpu = 2;
  std::vector<StepEvent> events;
  const StepTime token = token_time(problem, placement, &events);
  // Two layers of 10 ms on the CPU with rows there and back three times, and what sharing costs
  // each time; the card waits for them.
  EXPECT_NEAR(token.ms, 2 * (10 + 3 * 0.75) + 2 * 1 + 4 * 1 + 2, kExact);
  const auto busy = [&](PlanPart part) { return token.busy_ms[static_cast<size_t>(part)]; };
  EXPECT_NEAR(busy(PlanPart::kCpu), 20, kExact);
  EXPECT_NEAR(busy(PlanPart::kLinkIn), 20, kExact);
  EXPECT_NEAR(busy(PlanPart::kGpu), 2 * 1 + 4 * 1 + 2, kExact);
  EXPECT_NEAR(busy(PlanPart::kDram), passing.busy_ms[static_cast<size_t>(PlanPart::kDram)], kExact);
  EXPECT_EQ(std::ranges::count(events, PlanPart::kCpu, &StepEvent::part), 2);
  EXPECT_EQ(std::ranges::count(events, PlanPart::kLinkIn, &StepEvent::part), 2);
  // A prompt's rows are computed where they were.
  EXPECT_EQ(prompt_time(problem, placement).ms, prompt.ms);
  // Of a layer with a piece on the card the CPU computes the other one.
  LayerGroup& group = problem.groups[0];
  group.apart = PieceApart{{.weight_gb = 0.075}, LayerPiece::kFfn, PlanTier::kHbm};
  group.weight_gb = 0.025;
  placement.groups[0].n_on_cpu = 4;
  EXPECT_NEAR(token_time(problem, placement).ms, 4 * (2.5 + 2 * 0.75) + 4 * 0.75 + 4 * 1 + 2,
              kExact);
  EXPECT_EQ(cpu_products(problem, placement), std::vector<PieceSet>(4, {.attention = true}));
  // And of a piece that a pin keeps in DRAM, of two of the layers: 7.5 ms for an FFN.
  group.apart->tier = PlanTier::kDram;
  placement.groups[0] = {.n_hbm = 4, .kv_hbm = 1000, .n_apart_on_cpu = 2};
  EXPECT_NEAR(token_time(problem, placement).ms, 2 * (7.5 + 0.75) + 2 * 0.75 + 4 * 0.25 + 4 * 1 + 2,
              kExact);
  const PieceSet ffn{.ffn = true};
  EXPECT_EQ(cpu_products(problem, placement),
            (std::vector<PieceSet>{kNoPiece, ffn, kNoPiece, ffn}));
}

}  // namespace
}  // namespace strata::planner
