// What `strata calibrate` asks of a card, asked of the emulated one: our kernels take it.
#include <gtest/gtest.h>

#include <cmath>

#include "engine/device.h"
#include "tests/gpu_emu/emulated_device.h"
#include "tools/cli/calibrate.h"

namespace strata::cli {
namespace {

TEST(DeviceCalibrate, OurKernelsTakeWhatTheyAreTimedWith) {
  const auto device = engine::OpenDevice::open(gpu_emu::emulated_device(), 0);
  constexpr KernelTrialSizes kSmall{
      .pool_min = 1 << 20, .pool_max = 1 << 20, .n_in = 256, .n_out = {64, 96, 128}, .n_rows = 24};
  for (const uint32_t head_dim : {64u, 128u}) {
    planner::DeviceRates rates;
    calibrate_kernels(device, {TensorType::kQ4_K, TensorType::kF16}, head_dim, rates, kSmall);
    for (const double rate : {rates.gemv_bytes_per_s, rates.gemm_flops, rates.attend_bytes_per_s,
                              rates.attend_flops, rates.launch_us})
      EXPECT_TRUE(std::isfinite(rate) && rate > 0) << rate;
  }
}

}  // namespace
}  // namespace strata::cli
