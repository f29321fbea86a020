// What a plan is priced with where a profile lacks figures.
#include "planner/placement/plan_rates.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"
#include "base/tensor_type.h"
#include "planner/virtual/device_profile.h"

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

TEST(PlanRates, WhatWasMeasuredOfACardStandsInPlaceOfItsKindsFigures) {
  MachineProfile profile = profile_of(device_profile("rtx4090"));
  const DeviceRates of_kind = profile.gpu;
  use_measured_card({.hbm_bytes = of_kind.hbm_bytes,
                     .host_to_device = {12, 1.1e10},
                     .device_to_host = {13, 1.2e10},
                     .copy_bytes_per_s = of_kind.copy_bytes_per_s / 2},
                    profile);
  const PlanRates rates = rates_of(profile, KvCodec::kF16, KvCodec::kF16, 64, /*has_device=*/true);
  EXPECT_DOUBLE_EQ(rates.link_in, 11);
  EXPECT_DOUBLE_EQ(rates.link_out, 12);
  EXPECT_DOUBLE_EQ(rates.round_trip_ms, 0.025);
  EXPECT_DOUBLE_EQ(rates.shared_layer_ms(), 0.075);
  EXPECT_DOUBLE_EQ(rates.hbm_gemv, of_kind.gemv_bytes_per_s / 2e9);
  EXPECT_DOUBLE_EQ(rates.hbm_attend, of_kind.attend_bytes_per_s / 2e9);
  EXPECT_DOUBLE_EQ(rates.gpu_gemm_tflops, of_kind.gemm_flops / 1e12);
  // Kernels that were measured count by themselves.
  MachineProfile with_kernels = profile;
  use_measured_card({.hbm_bytes = of_kind.hbm_bytes,
                     .copy_bytes_per_s = of_kind.copy_bytes_per_s,
                     .gemv_bytes_per_s = 3e11,
                     .attend_bytes_per_s = 4e11,
                     .gemm_flops = 5e13,
                     .attend_flops = 6e13,
                     .launch_us = 2.5},
                    with_kernels);
  const PlanRates measured =
      rates_of(with_kernels, KvCodec::kF16, KvCodec::kF16, 64, /*has_device=*/true);
  EXPECT_DOUBLE_EQ(measured.hbm_gemv, 300);
  EXPECT_DOUBLE_EQ(measured.hbm_attend, 400);
  EXPECT_DOUBLE_EQ(measured.gpu_gemm_tflops, 50);
  EXPECT_DOUBLE_EQ(measured.gpu_attend_tflops, 60);
  EXPECT_DOUBLE_EQ(measured.launch_ms, 0.025);  // ten kernels of a layer
  EXPECT_DOUBLE_EQ(measured.link_in, 11);
  // Nothing was measured: nothing changes.
  MachineProfile same = profile;
  use_measured_card({}, same);
  EXPECT_EQ(same.gpu.gemv_bytes_per_s, profile.gpu.gemv_bytes_per_s);
  EXPECT_EQ(same.gpu.host_to_device.bytes_per_s, 1.1e10);
}

TEST(PlanRates, ChoosingIsPricedAsItsMethodWasMeasured) {
  MachineProfile profile = measured_here();
  EXPECT_GT(scan_rate(profile, "rabitq", 64), 0);  // assumed
  profile.index.clear();
  EXPECT_EQ(scan_rate(profile, "rabitq", 64), 0);
  profile.index = {{"rabitq", 64, 7e9}, {"rabitq", 128, 8e9}, {"pq", 64, 5e9}};
  EXPECT_EQ(scan_rate(profile, "rabitq", 64), 7e9);
  EXPECT_EQ(scan_rate(profile, "rabitq", 256), 8e9);
  EXPECT_EQ(scan_rate(profile, "rabitq+tail", 80), 7e9);
  EXPECT_EQ(scan_rate(profile, "pq", 128), 5e9);
  EXPECT_EQ(scan_rate(profile, "quest", 64), 0);
}

TEST(PlanRates, EveryTypeHasAssumedRates) {
  const MachineProfile& assumed = unmeasured_profile();
  EXPECT_EQ(assumed.linear.size(), tensor_types().size());
  for (const TensorTypeInfo& info : tensor_types()) {
    EXPECT_GT(gemv_ms(assumed, info.type, 1e9), 0) << info.name;
    EXPECT_GT(gemm_ms(assumed, info.type, 1e9), 0) << info.name;
    EXPECT_GT(pack_ms(assumed, info.type, 1e9), 0) << info.name;
  }
}

TEST(PlanRates, ATypeThatWasNotMeasuredKeepsItsAssumedRatioToThoseThatWere) {
  const MachineProfile& assumed = unmeasured_profile();
  MachineProfile profile = measured_here();
  profile.linear = {{TensorType::kQ4_1, 0, 0, 0}};
  for (const LinearRate& of : assumed.linear)
    if (of.type == TensorType::kQ4_1)  // a machine that is twice, three times, half as quick
      profile.linear[0] = {of.type, 2 * of.gemv_bytes_per_s, 3 * of.gemm_flops,
                           of.pack_bytes_per_s / 2};
  for (const TensorType type : {TensorType::kQ4_1, TensorType::kQ4_K, TensorType::kF32}) {
    EXPECT_DOUBLE_EQ(gemv_ms(profile, type, 1e9), gemv_ms(assumed, type, 1e9) / 2);
    EXPECT_DOUBLE_EQ(gemm_ms(profile, type, 1e9), gemm_ms(assumed, type, 1e9) / 3);
    EXPECT_DOUBLE_EQ(pack_ms(profile, type, 1e9), pack_ms(assumed, type, 1e9) * 2);
  }
}

TEST(PlanRates, OfSeveralMeasuredTypesTheSlowestAnswerCounts) {
  MachineProfile profile = measured_here();
  const double of_q8 = gemv_ms(profile, TensorType::kQ8_0, 1e9);
  const double of_q6 = gemv_ms(profile, TensorType::kQ6_K, 1e9);
  std::erase_if(profile.linear, [](const LinearRate& of) {
    return of.type != TensorType::kQ8_0 && of.type != TensorType::kF16;
  });
  EXPECT_DOUBLE_EQ(gemv_ms(profile, TensorType::kQ6_K, 1e9), of_q6);
  for (LinearRate& of : profile.linear)
    if (of.type == TensorType::kF16) of.gemv_bytes_per_s /= 4;
  EXPECT_DOUBLE_EQ(gemv_ms(profile, TensorType::kQ6_K, 1e9), 4 * of_q6);
  EXPECT_DOUBLE_EQ(gemv_ms(profile, TensorType::kQ8_0, 1e9), of_q8);  // its own was measured
}

TEST(PlanRates, PackingThatWasNotMeasuredIsTheAssumed) {
  MachineProfile profile = measured_here();
  profile.linear = {{TensorType::kQ4_0, 10e9, 4e11, 0}};
  EXPECT_DOUBLE_EQ(pack_ms(profile, TensorType::kQ6_K, 8e9),
                   pack_ms(unmeasured_profile(), TensorType::kQ6_K, 8e9));
}

TEST(PlanRates, ReadsTakeWhatTheirSizeAndTheirNumberInFlightGive) {
  MachineProfile profile = measured_here();
  profile.disk_read = {
      {1000, 1, 1e6}, {1000, 8, 2e6}, {3000, 1, 1e6}, {3000, 8, 3e6}, {1000, 32, 1e6}};
  profile.disk_read_bytes_per_s = 3.2e6;
  EXPECT_DOUBLE_EQ(read_share(profile, 1000, 8), 3.2 / 2);
  EXPECT_DOUBLE_EQ(read_share(profile, 1000, 1), 3.2);
  EXPECT_DOUBLE_EQ(read_share(profile, 1000, 2),
                   3.2 / (1000 / (1000 - 500 / 3.0)));  // of 1, 2, 4, 8
  EXPECT_DOUBLE_EQ(read_share(profile, 1000, 4), 3.2 / (1000 / (1000 - 1000 / 3.0)));
  EXPECT_DOUBLE_EQ(read_share(profile, 1000, 16), 3.2 / 2);  // none deeper is quicker
  EXPECT_DOUBLE_EQ(read_share(profile, 3000, 100), 3.2 / 3);
  // 500 us and 1000 us: 750 us between them.
  EXPECT_DOUBLE_EQ(read_share(profile, 2000, 8), 3.2 / (2000 / 750.0));
  EXPECT_DOUBLE_EQ(read_share(profile, 500, 8), 3.2);  // no quicker than one of 1000
  EXPECT_DOUBLE_EQ(read_share(profile, 5000, 1), 1);   // larger than measured: in order
  profile.disk_read_bytes_per_s = 2.5e6;
  EXPECT_DOUBLE_EQ(read_share(profile, 3000, 8), 1);  // no quicker than in order
  profile.disk_read.clear();
  EXPECT_DOUBLE_EQ(read_share(profile, 1000, 8), 1);
}

TEST(PlanRates, ValuesThatRowsWriteTakeTimeWhereTheyWereMeasured) {
  MachineProfile profile = measured_here();
  profile.step_cost.row_values_per_s = 2e9;
  EXPECT_DOUBLE_EQ(rows_ms(profile, 6e6), 3);
  profile.step_cost.row_values_per_s = 0;
  EXPECT_EQ(rows_ms(profile, 6e6), 0);
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
