// gpu_attn/linear_few_rows.cuh - what the kernels of linear.cu share: their argument, which warp
// works on what, and how sums of many lanes become one.
#pragma once

#include "gpu_attn/panel_chunk.cuh"

namespace strata::gpu_attn {
namespace {

/// One of the launch's matrices.
struct FewRowsMatrix {
  const uint8_t* panels;
  float* out;  // [n_rows, n_out]
  uint64_t panel_bytes;
  uint32_t codes_offset;  // inside a panel, of quantised types
  uint32_t n_out;
  uint32_t end_block;  // thread blocks of this matrix and of those before it: one per panel
  TensorType type;
};

struct FewRowsArgs {
  FewRowsMatrix w[kDeviceLinearMax];
  const float* x;
  QuantRows quant;
  uint32_t n_in;
  uint32_t n_rows;
};

/// A warp's part of a panel: it takes every n_warps-th step of the inputs.
struct WarpWork {
  const uint8_t* panel;
  const uint8_t* codes;  // inside the panel, of quantised types
  float* sums;           // [rows][16]: what the warp leaves in shared memory
  uint32_t warp;
  uint32_t n_warps;
  uint32_t lane;
};

/// A group's integer sum starts at the bits of 1.5 * 2^23, so that those of its end are a float's.
/// |sum| <= 32 * 255 * 127 < 2^22.
constexpr int32_t kSumStart = 0x4B400000;
constexpr float kSumStartValue = 0x1.8p23f;

__device__ __forceinline__ float sum_to_float(int32_t sum) {
  return bits_to_float(static_cast<uint32_t>(sum)) - kSumStartValue;
}

/// Adds up kCount values of each lane over the lanes that differ in the bits kLast .. kBit: at each
/// bit a lane keeps half of its values and gives away the others, as long as it has two. `first` is
/// raised to the place of the lane's values[0] among all. Whatever kCount is, a value's sum is the
/// same tree over lanes.
template <uint32_t kCount, uint32_t kBit, uint32_t kLast, uint32_t kSize>
__device__ __forceinline__ void join_lanes(float (&values)[kSize], uint32_t lane, uint32_t& first) {
  constexpr uint32_t kKept = kCount > 1 ? kCount / 2 : 1;
  if constexpr (kCount > 1) {
    const bool keeps_last = (lane & kBit) != 0;
#pragma unroll
    for (uint32_t i = 0; i < kKept; ++i) {
      const float given = keeps_last ? values[i] : values[kKept + i];
      const float kept = keeps_last ? values[kKept + i] : values[i];
      values[i] = kept + __shfl_xor_sync(kFullMask, given, kBit);
    }
    if (keeps_last) first += kKept;
  } else {
    values[0] += __shfl_xor_sync(kFullMask, values[0], kBit);
  }
  if constexpr (kBit != kLast) join_lanes<kKept, kBit / 2, kLast>(values, lane, first);
}

/// Writes a warp's sums of kRows rows to `sums`. Lane l holds kWidth output rows, from l % (16 /
/// kWidth) * kWidth on, over inputs of its own.
template <uint32_t kRows, uint32_t kWidth>
__device__ __forceinline__ void store_joined(float (&acc)[kRows * kWidth], uint32_t lane,
                                             float* sums) {
  constexpr uint32_t kSides = kPanelRows / kWidth;  // lanes that hold different outputs
  constexpr uint32_t kSharers = 32 / kSides;        // lanes that hold the same
  constexpr uint32_t kCount = kRows * kWidth;
  constexpr uint32_t kLeft = kCount > kSharers ? kCount / kSharers : 1;
  // Lanes that differ in these bits alone hold the same sums: the first of them writes.
  constexpr uint32_t kSame = kCount < kSharers ? 32 / kCount - kSides : 0;
  uint32_t first = 0;
  join_lanes<kCount, 16, kSides>(acc, lane, first);
  if ((lane & kSame) != 0) return;
#pragma unroll
  for (uint32_t i = 0; i < kLeft; ++i) {
    const uint32_t at = first + i;
    sums[at / kWidth * kPanelRows + lane % kSides * kWidth + at % kWidth] = acc[i];
  }
}

}  // namespace
}  // namespace strata::gpu_attn
