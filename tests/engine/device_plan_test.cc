#include "engine/device_plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "tests/engine/mebibyte.h"

namespace strata::engine {
namespace {

DeviceNeeds needs() {
  return {.buffer_bytes = 10 * kMiB,
          .head_bytes = 30 * kMiB,
          .layer_bytes = std::vector<uint64_t>(8, 20 * kMiB),
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

TEST(DevicePlan, StreamedLayersAreSpread) {
  const DevicePlan plan = plan_device(needs(), 165 * kMiB);  // two slots and four layers
  EXPECT_EQ(plan.is_resident,
            (std::vector<bool>{false, true, false, true, false, true, false, true}));
  EXPECT_EQ(plan.slot_bytes, 20 * kMiB);
  EXPECT_EQ(plan.kv_bytes, 5 * kMiB);
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
