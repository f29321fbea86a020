// Times of plans where memory and the disk give now what they did not when they were measured.
#include <gtest/gtest.h>

#include "planner/placement/step_time.h"
#include "tests/planner/small_problem.h"

namespace strata::planner {
namespace {

TEST(Pace, OfAnotherPaceIsThatOfTheOtherRates) {
  PlacementProblem problem = small_problem(false);
  problem.rates.cpu_step_ms = 3;
  problem.groups[0].cpu_linear_ms = 5;  // 20 GB/s, as attention: all that DRAM has
  problem.rates.dram_read = 20;
  // What is near goes at DRAM's pace, but for the step's own cost; what is far at the disk's.
  const LayerPlacement near = small_placement(0, 4, 0, 0, 1000),
                       far = small_placement(0, 0, 4, 0, 1000);
  EXPECT_NEAR(token_time(at_pace(problem, {.dram = 0.5}), near).ms, 2 * (4 * 10 + 2) + 3, kExact);
  EXPECT_NEAR(token_time(at_pace(problem, {.disk = 0.5}), near).ms, 4 * 10 + 2 + 3, kExact);
  EXPECT_NEAR(token_time(at_pace(problem, {.disk = 0.5}), far).ms, 2 * 4 * 50, kExact);
  // Arithmetic of a prompt knows no memory's pace; the card's head none either.
  problem.head_ms = 0;
  EXPECT_NEAR(prompt_time(at_pace(problem, {.dram = 0.5}), near).ms, prompt_time(problem, near).ms,
              kExact);
  const PlacementProblem card = small_problem(true);
  EXPECT_NEAR(token_time(at_pace(card, {.dram = 0.5}), small_placement(4, 0, 0, 1000, 0)).ms,
              token_time(card, small_placement(4, 0, 0, 1000, 0)).ms, kExact);
}

TEST(Pace, SlowerMemoryHoldsUpOnlyWhatReadsAsQuicklyAsItDoes) {
  PlacementProblem problem = small_problem(false);  // weights at 10 GB/s, attention at 20
  problem.rates.dram_read = 40;
  const LayerPlacement near = small_placement(0, 4, 0, 0, 1000);
  const auto ms = [&](double pace) {
    return token_time(at_pace(problem, {.dram = pace}), near).ms;
  };
  const double measured = 4 * (10 + 5) + 2;
  EXPECT_NEAR(ms(1), measured, kExact);
  EXPECT_NEAR(ms(0.7), measured, kExact);
  EXPECT_NEAR(ms(1.5), measured, kExact);
  EXPECT_NEAR(ms(0.5), 4 * (10 + 6.25) + 2, kExact);        // kDramBound of 20 GB/s: 16
  EXPECT_NEAR(ms(0.125), 4 * (25 + 25) + 2 * 2.5, kExact);  // the head goes as the layers do
  problem.groups[0].cpu_linear_ms = 3;                      // 33 GB/s, above the bound of 32
  EXPECT_NEAR(ms(2), 4 * (1.5 + 5) + 1, kExact);
  EXPECT_NEAR(ms(0.9), 4 * (3 / 0.9 + 5) + 2 / 0.9, kExact);
}

TEST(Pace, IsThatOfBothPiecesOfALayer) {
  PlacementProblem whole = small_problem(false);
  whole.rates.dram_read = 10;
  PlacementProblem split = whole;
  split.groups[0].weight_gb = 0.04;
  split.groups[0].apart = PieceApart{{.weight_gb = 0.06}};
  EXPECT_NEAR(at_pace(split, {.dram = 0.25}).groups[0].cpu_linear_ms,
              at_pace(whole, {.dram = 0.25}).groups[0].cpu_linear_ms, kExact);
}

TEST(Pace, OfMemoryThatNobodyHasMeasuredIsNone) {
  PlacementProblem problem = small_problem(false);
  problem.rates.dram_read = 0;
  const PlacementProblem slow = at_pace(problem, {.dram = 0.5});
  EXPECT_NEAR(slow.groups[0].cpu_linear_ms, 10, kExact);
  EXPECT_NEAR(slow.rates.cpu_attend, 20, kExact);
  EXPECT_NEAR(slow.head_ms, 2, kExact);
}

}  // namespace
}  // namespace strata::planner
