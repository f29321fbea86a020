#include "engine/device_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "tests/engine/mebibyte.h"

namespace strata::engine {
namespace {

DeviceNeeds needs() {
  return {.buffer_bytes = 10 * kMiB,
          .head_bytes = 30 * kMiB,
          .layer_bytes = std::vector<uint64_t>(8, 20 * kMiB),
          .piece_bytes = {},
          .kv_bytes = 100 * kMiB,
          .block_bytes = 16384};
}

TEST(DevicePlan, HoldsEverythingWhereThereIsRoom) {
  const DevicePlan plan = plan_device(needs(), 300 * kMiB);
  EXPECT_EQ(plan.n_streamed(), 0u);
  EXPECT_EQ(plan.slot_bytes, 0u);
  EXPECT_EQ(plan.kv_bytes, 100 * kMiB);
  EXPECT_EQ(plan.hbm_bytes, 300 * kMiB);
}

TEST(DevicePlan, WeightsComeBeforeKAndV) {
  const DevicePlan plan = plan_device(needs(), 210 * kMiB);
  EXPECT_EQ(plan.n_streamed(), 0u);
  EXPECT_EQ(plan.kv_bytes, 10 * kMiB);
}

TEST(DevicePlan, RowsOfAnIndexComeBetweenAllOrNone) {
  DeviceNeeds of = needs();
  of.index_bytes = 12 * kMiB;
  const DevicePlan plan = plan_device(of, 220 * kMiB);
  EXPECT_EQ(plan.n_streamed(), 0u);
  EXPECT_EQ(plan.index_bytes, 12 * kMiB);
  EXPECT_EQ(plan.kv_bytes, 8 * kMiB);
  EXPECT_EQ(plan.hbm_bytes, 220 * kMiB);
  EXPECT_EQ(plan_device(of, 212 * kMiB).index_bytes, 12 * kMiB);
  const DevicePlan without = plan_device(of, 212 * kMiB - 1);
  EXPECT_EQ(without.n_streamed(), 0u);
  EXPECT_EQ(without.index_bytes, 0u);
  EXPECT_EQ(without.kv_bytes, 12 * kMiB - of.block_bytes);
  // What must be there of K and V is.
  of.kv_bytes_min = 10 * kMiB;
  EXPECT_EQ(plan_device(of, 222 * kMiB).index_bytes, 12 * kMiB);
  EXPECT_EQ(plan_device(of, 222 * kMiB).kv_bytes, 10 * kMiB);
  EXPECT_EQ(plan_device(of, 222 * kMiB - 1).index_bytes, 0u);
}

TEST(DevicePlan, RowsOfAnIndexComeBehindWhatATokenChooses) {
  DeviceNeeds of = needs();
  of.index_bytes = 12 * kMiB;
  of.kv_bytes_chosen = 25 * kMiB;  // more than must be there
  of.kv_bytes_min = 10 * kMiB;
  constexpr uint64_t kWeights = 200 * kMiB;
  const DevicePlan both = plan_device(of, kWeights + 37 * kMiB);
  EXPECT_EQ(both.index_bytes, 12 * kMiB);
  EXPECT_EQ(both.kv_bytes, 25 * kMiB);
  const DevicePlan chosen = plan_device(of, kWeights + 37 * kMiB - 1);
  EXPECT_EQ(chosen.index_bytes, 0u);
  EXPECT_EQ(chosen.kv_bytes, 37 * kMiB - of.block_bytes);
  // In between the rows come before what no token has chosen.
  const DevicePlan between = plan_device(of, kWeights + 60 * kMiB);
  EXPECT_EQ(between.index_bytes, 12 * kMiB);
  EXPECT_EQ(between.kv_bytes, 48 * kMiB);
  EXPECT_EQ(between.n_streamed(), 0u);
}

/// Of a short text, or of many answers.
TEST(DevicePlan, AllOfKAndVComeBeforeRowsThatAreLarger) {
  DeviceNeeds of = needs();
  constexpr uint64_t kWeights = 200 * kMiB;
  of.index_bytes = 130 * kMiB;
  of.kv_bytes_chosen = 5 * kMiB;
  const auto held = [&](uint64_t room) {
    const DevicePlan plan = plan_device(of, kWeights + room);
    EXPECT_EQ(plan.hbm_bytes, kWeights + plan.index_bytes + plan.kv_bytes);
    return std::pair(plan.index_bytes, plan.kv_bytes);
  };
  EXPECT_EQ(held(230 * kMiB), std::pair(130 * kMiB, 100 * kMiB));
  EXPECT_EQ(held(230 * kMiB - 1), std::pair(uint64_t{0}, 100 * kMiB));
  EXPECT_EQ(held(100 * kMiB), std::pair(uint64_t{0}, 100 * kMiB));
  // Of rows that are no larger, what no token has chosen gives way.
  of.index_bytes = 100 * kMiB;
  EXPECT_EQ(held(200 * kMiB), std::pair(100 * kMiB, 100 * kMiB));
  EXPECT_EQ(held(150 * kMiB), std::pair(100 * kMiB, 50 * kMiB));
  EXPECT_EQ(held(105 * kMiB), std::pair(100 * kMiB, 5 * kMiB));
  EXPECT_EQ(held(105 * kMiB - 1), std::pair(uint64_t{0}, 100 * kMiB));
}

TEST(DevicePlan, StreamedLayersAreSpread) {
  const DevicePlan plan = plan_device(needs(), 165 * kMiB);  // two slots and four layers
  std::vector<PieceSet> every_second;
  for (int i = 0; i < 4; ++i) every_second.insert(every_second.end(), {kNoPiece, kWholeLayer});
  EXPECT_EQ(plan.resident, every_second);
  EXPECT_EQ(plan.slot_bytes, 20 * kMiB);
  EXPECT_EQ(plan.kv_bytes, 5 * kMiB);
}

TEST(DevicePlan, SlotsAreOfWhatPasses) {
  DeviceNeeds of = needs();
  of.piece_bytes.assign(8, {5 * kMiB, 15 * kMiB});
  const DevicePlan ffn = device_plan_of(of, std::vector<PieceSet>(8, {.attention = true}));
  EXPECT_EQ(ffn.n_streamed(), 8u);
  EXPECT_EQ(ffn.n_in_part(), 8u);
  EXPECT_EQ(ffn.slot_bytes, 15 * kMiB);
  EXPECT_EQ(ffn.weight_bytes, (30 + 8 * 5) * kMiB);
  EXPECT_EQ(ffn.hbm_bytes, (10 + 30 + 8 * 5 + 2 * 15) * kMiB);
  std::vector<PieceSet> some(8, kWholeLayer);
  some[3] = {.ffn = true};
  some[5] = kNoPiece;
  const DevicePlan mixed = device_plan_of(of, some);
  EXPECT_EQ(mixed.n_streamed(), 2u);
  EXPECT_EQ(mixed.n_in_part(), 1u);
  EXPECT_EQ(mixed.slot_bytes, 20 * kMiB);
  EXPECT_EQ(mixed.weight_bytes, (30 + 6 * 20 + 15) * kMiB);
  some[5] = {.attention = true};  // layers that stay whole need no room to pass
  EXPECT_EQ(device_plan_of(of, some).slot_bytes, 15 * kMiB);
}

TEST(DevicePlan, TheRemedyOfARefusalFits) {
  uint64_t refused = 0;
  for (uint64_t hbm = 0; hbm < 100 * kMiB; hbm += kMiB) {
    try {
      EXPECT_LE(plan_device(needs(), hbm).hbm_bytes, hbm);
    } catch (const Error& error) {
      refused = hbm;
      EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
      EXPECT_NE(error.remedy().find("--hbm to 80MiB"), std::string::npos) << error.remedy();
    }
  }
  EXPECT_EQ(refused, 79 * kMiB);
}

}  // namespace
}  // namespace strata::engine
