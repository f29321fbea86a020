// gpu_attn/cuda_errors.h - what CUDA's error numbers mean to Strata, and the numbers of what CUDA
// has none for. Why apart from the module: it needs no CUDA, so every machine tests it.
#pragma once

#include <string_view>

#include "base/device_table.h"

namespace strata::gpu_attn {

// Numbers of our own lie above those of CUDA, which end at 999.
inline constexpr int kNoDriverError = 1 << 16;
inline constexpr int kOldCardError = kNoDriverError + 1;
/// Plus the number that CUDA gave: the same number means another thing where host memory is pinned
/// (2 is then the machine's memory, or the limit on locked memory) and where devices are counted.
inline constexpr int kPinErrors = 1 << 17;
inline constexpr int kCountErrors = 1 << 18;

/// The compute capability that kernels need: asynchronous copies into shared memory and the tensor
/// cores' m16n8k16 began with 8.0.
inline constexpr uint32_t kMinCapability = 80;

/// What a number of the module's functions says. Numbers of the CUDA 13 runtime
/// (driver_types.h, cudaError).
DeviceStatus cuda_status(int error);

/// The words for a number of our own; empty for one of CUDA's.
std::string_view own_words(int error);

/// The number that CUDA gave, without what pin and count added to it.
constexpr int cuda_number(int error) {
  if (error >= kCountErrors) return error - kCountErrors;
  return error >= kPinErrors ? error - kPinErrors : error;
}

/// A failure of pinning; a lost device stays one.
int pin_error(int error);
/// A failure of counting devices: there are none, whatever CUDA said.
int count_error(int error);

}  // namespace strata::gpu_attn
