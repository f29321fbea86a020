// What a plan is priced with where a profile lacks figures.
#include "planner/placement/plan_rates.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace strata::planner {
namespace {

MachineProfile measured_here() {
  MachineProfile profile = unmeasured_profile();
  profile.measured_at = "2026-11-26T13:20:00Z";
  return profile;
}

TEST(PlanRates, ACardWhoseKernelsWereNotMeasuredIsAskedForOnlyWhereItComputes) {
  MachineProfile profile = measured_here();
  profile.gpu.hbm_bytes = uint64_t{24} << 30;  // as `strata calibrate` leaves it
  profile.gpu.host_to_device = profile.gpu.device_to_host = {10, 2.4e10};
  profile.gpu.copy_bytes_per_s = 9e11;
  const PlanRates rates = rates_of(profile, KvCodec::kF16, KvCodec::kF16, 64, /*has_device=*/false);
  EXPECT_GT(rates.cpu_attend, 0);
  EXPECT_EQ(rates.link_in, 0);
  try {
    (void)rates_of(profile, KvCodec::kF16, KvCodec::kF16, 64, /*has_device=*/true);
    ADD_FAILURE() << "a plan would divide by 0";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadFile);
    EXPECT_EQ(error.where(), "gpu.gemv_bytes_per_s");
  }
}

TEST(PlanRates, ATypeThatWasNotMeasuredIsAsSlowAsTheSlowestAtEachKindOfWork) {
  MachineProfile profile = measured_here();
  profile.linear = {{TensorType::kF16, 10e9, 4e11}, {TensorType::kQ8_0, 20e9, 1e11}};
  EXPECT_DOUBLE_EQ(gemv_ms(profile, TensorType::kQ6_K, 10e9), 1e3);
  EXPECT_DOUBLE_EQ(gemm_ms(profile, TensorType::kQ6_K, 1e11), 1e3);
  EXPECT_DOUBLE_EQ(gemm_ms(profile, TensorType::kF16, 4e11), 1e3);
}

TEST(PlanRates, PackingIsOfTheProfileAndOfTheDocumentationWithoutOne) {
  MachineProfile profile = measured_here();
  profile.linear = {{TensorType::kQ4_0, 10e9, 4e11, 8e9}, {TensorType::kQ4_K, 20e9, 1e11, 2e9}};
  EXPECT_DOUBLE_EQ(pack_ms(profile, TensorType::kQ4_0, 8e9), 1e3);
  EXPECT_DOUBLE_EQ(pack_ms(profile, TensorType::kQ6_K, 8e9), 4e3);  // as the slowest
  for (auto& of : profile.linear) of.pack_bytes_per_s = 0;
  EXPECT_GT(pack_ms(profile, TensorType::kQ6_K, 8e9), pack_ms(profile, TensorType::kQ4_0, 8e9));
}

TEST(PlanRates, ALayerCostsItsStepsShareAndItsAttentions) {
  MachineProfile profile = measured_here();
  profile.step_cost = {.step_us = 70, .layer_us = 30};
  profile.attend = {{KvCodec::kF16, 64, 5e9, 6e10, 12}, {KvCodec::kQ8_0, 64, 5e9, 6e10, 20}};
  const PlanRates rates = rates_of(profile, KvCodec::kF16, KvCodec::kQ8_0, 64, false);
  EXPECT_DOUBLE_EQ(rates.cpu_layer_ms, 0.050);
  EXPECT_DOUBLE_EQ(rates.cpu_chunk_layer_ms, 0.030);
  EXPECT_DOUBLE_EQ(rates.cpu_step_ms, 0.070);
}

}  // namespace
}  // namespace strata::planner
