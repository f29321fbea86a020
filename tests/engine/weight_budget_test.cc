// Law L2 for weights: no plan exceeds its budget, and what cannot fit is refused with the smallest
// budget that would do.
#include "engine/weight_budget.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "base/error.h"
#include "engine/byte_text.h"
#include "engine/panel_reader.h"
#include "tests/engine/mebibyte.h"

namespace strata::engine {
namespace {

WeightSizes sizes_of(uint32_t n_layers) {
  WeightSizes sizes;
  sizes.always_bytes = 100 * kMiB;
  sizes.layers.assign(n_layers, {.packed_bytes = 90 * kMiB, .n_reads = 90, .read_bytes_max = kMiB});
  return sizes;
}

TEST(WeightBudget, WithoutALimitEverythingStays) {
  const WeightPlan plan = plan_weights(sizes_of(32), 0);
  EXPECT_EQ(plan.n_streamed(), 0u);
  EXPECT_EQ(plan.n_slots, 0u);
  EXPECT_EQ(plan.total_bytes(), (100 + 32 * 90) * kMiB);
}

TEST(WeightBudget, ABudgetOfAllWeightsStreamsNothing) {
  const uint64_t all = (100 + 32 * 90) * kMiB;
  EXPECT_EQ(plan_weights(sizes_of(32), all).n_streamed(), 0u);
  EXPECT_GT(plan_weights(sizes_of(32), all - 1).n_streamed(), 0u);
}

TEST(WeightBudget, StreamedLayersAreSpread) {
  const WeightPlan plan = plan_weights(sizes_of(32), 1700 * kMiB);
  uint32_t longest = 0, run = 0;
  for (const PieceSet& streamed : plan.streamed) {
    run = streamed.is_any() ? 0 : run + 1;
    longest = std::max(longest, run);
  }
  const uint32_t n_resident = 32 - plan.n_streamed();
  EXPECT_EQ(n_resident, 15u);  // 100 of embedding, 180 of slots, 32 of buffers, 15 layers of 90
  EXPECT_EQ(longest, 1u);
}

/// 100 MiB of embedding, 180 of slots, 33 of buffers, and ten layers of 90.
TEST(WeightBudget, WhatIsHeldElsewhereTakesNoRoomAndTheOthersAreSpread) {
  std::vector<PieceSet> held(32);
  for (size_t i = 0; i < 32; i += 4) held[i] = kWholeLayer;
  const WeightPlan plan = plan_weights(sizes_of(32), (100 + 180 + 33 + 900) * kMiB, held);
  EXPECT_EQ(plan.n_streamed(), 32u - 10);
  uint32_t longest = 0, run = 0;  // of neither
  for (size_t i = 0; i < 32; ++i) {
    EXPECT_TRUE(plan.streamed[i].is_whole() || !held[i].is_any());
    run = plan.streamed[i].is_any() ? 0 : run + 1;
    longest = std::max(longest, run);
  }
  EXPECT_LE(longest, 2u);
  EXPECT_EQ(plan_weights(sizes_of(32), 0, held).streamed, held);
}

TEST(WeightBudget, TooSmallIsRefusedWithTheSmallestThatWorks) {
  const uint64_t smallest = smallest_weight_budget(sizes_of(32));
  EXPECT_EQ(smallest, 100 * kMiB + 2 * 90 * kMiB + 32 * read_buffer_bytes(kMiB));
  EXPECT_EQ(plan_weights(sizes_of(32), smallest).n_streamed(), 32u);
  try {
    (void)plan_weights(sizes_of(32), smallest - 1);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
    EXPECT_EQ(error.where(), "--weights-dram");
    EXPECT_NE(error.remedy().find("--weights-dram " + size_argument(smallest)), std::string::npos)
        << error.remedy();
  }
}

TEST(WeightBudget, APieceThatStaysIsInNoSlot) {
  WeightSizes sizes = sizes_of(4);
  sizes.pieces.assign(4,
                      {LayerSize{.packed_bytes = 30 * kMiB, .n_reads = 3, .read_bytes_max = kMiB},
                       LayerSize{.packed_bytes = 60 * kMiB, .n_reads = 6, .read_bytes_max = kMiB}});
  const PieceSet attention{.attention = true}, ffn{.ffn = true};
  WeightPlan plan = weight_plan_of(sizes, {attention, attention, attention, kNoPiece});
  EXPECT_EQ(plan.n_streamed(), 3u);
  EXPECT_EQ(plan.n_in_part(), 3u);
  EXPECT_EQ(plan.resident_bytes, (100 + 3 * 60 + 90) * kMiB);
  EXPECT_EQ(plan.slot_bytes, 30 * kMiB);
  EXPECT_EQ(plan.n_buffers, 9u);
  plan = weight_plan_of(sizes, {attention, ffn, kNoPiece, kNoPiece});
  EXPECT_EQ(plan.resident_bytes, (100 + 60 + 30 + 2 * 90) * kMiB);
  EXPECT_EQ(plan.slot_bytes, 60 * kMiB);
  plan = weight_plan_of(sizes, {kWholeLayer, ffn, kNoPiece, kNoPiece});
  EXPECT_EQ(plan.n_in_part(), 1u);
  EXPECT_EQ(plan.slot_bytes, 90 * kMiB);
}

TEST(WeightBudget, NoPlanExceedsItsBudget) {
  const uint32_t seed = 77;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  uint32_t n_refused = 0, n_streaming = 0;
  for (int i = 0; i < 2000; ++i) {
    WeightSizes sizes;
    sizes.always_bytes = random() % (100 * kMiB);
    const uint64_t n_layers = 1 + random() % 40;
    uint64_t all = sizes.always_bytes;
    for (uint64_t layer = 0; layer < n_layers; ++layer) {
      const uint64_t bytes = 1 + random() % (20 * kMiB);
      sizes.layers.push_back({.packed_bytes = bytes,
                              .n_reads = static_cast<uint32_t>(1 + bytes / kMiB),
                              .read_bytes_max = kMiB});
      all += bytes;
    }
    const uint64_t budget = 1 + random() % (all + kMiB);
    const uint64_t smallest = smallest_weight_budget(sizes);
    try {
      const WeightPlan plan = plan_weights(sizes, budget);
      ASSERT_LE(plan.total_bytes(), budget);
      ASSERT_GE(budget, smallest);
      if (plan.n_streamed() > 0) ++n_streaming;
    } catch (const Error&) {
      ASSERT_LT(budget, smallest);
      ++n_refused;
    }
  }
  EXPECT_GT(n_refused, 100u);
  EXPECT_GT(n_streaming, 100u);
}

}  // namespace
}  // namespace strata::engine
