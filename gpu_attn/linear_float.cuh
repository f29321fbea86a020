// gpu_attn/linear_float.cuh - a warp's part of one panel of F32, F16 or BF16 values times up to
// kRows rows of f32. A 16-byte load holds four or eight output rows of one input.
#pragma once

#include "gpu_attn/linear_few_rows.cuh"

namespace strata::gpu_attn {
namespace {

template <TensorType kType>
constexpr uint32_t kFloatWidth = kType == TensorType::kF32 ? 4 : 8;  // output rows of a load

/// Loads that a thread has under way at once.
constexpr uint32_t kFloatLoads = 4;

/// Inputs that a warp reads at once.
template <TensorType kType>
constexpr uint32_t kFloatStep = kFloatLoads * 32 * kFloatWidth<kType> / kPanelRows;

template <TensorType kType>
__device__ __forceinline__ float float_weight(uint4 v, uint32_t e) {
  const uint32_t i = kType == TensorType::kF32 ? e : e / 2;
  const uint32_t dword = i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
  if constexpr (kType == TensorType::kF32) {
    return bits_to_float(dword);
  } else if constexpr (kType == TensorType::kBF16) {
    return bits_to_float(e % 2 == 0 ? dword << 16 : dword & 0xffff0000u);
  } else {
    const float2 pair = f16x2_to_float2(dword);
    return e % 2 == 0 ? pair.x : pair.y;
  }
}

/// Rows that the launch lacks repeat its last one, so that no branch stands between loads; their
/// sums are dropped.
template <TensorType kType, uint32_t kRows>
__device__ __forceinline__ void add_float_rows(const FewRowsArgs& args, const WarpWork& work) {
  constexpr uint32_t kWidth = kFloatWidth<kType>;
  constexpr uint32_t kSides = kPanelRows / kWidth;
  constexpr uint32_t kStep = kFloatStep<kType>;
  const uint8_t* panel = work.panel + work.lane % kSides * 16;
  float acc[kRows * kWidth] = {};
  for (uint32_t first = work.warp * kStep + work.lane / kSides; first < args.n_in;
       first += work.n_warps * kStep) {
    uint4 weights[kFloatLoads];
#pragma unroll
    for (uint32_t i = 0; i < kFloatLoads; ++i) {
      const uint32_t k = first + i * (32 / kSides);
      weights[i] =
          k < args.n_in ? load16_once(panel + uint64_t{k} * kSides * 16) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (uint32_t i = 0; i < kFloatLoads; ++i) {
      const uint32_t k = first + i * (32 / kSides);
      if (k >= args.n_in) break;
#pragma unroll
      for (uint32_t r = 0; r < kRows; ++r) {
        const uint32_t row = kRows == 1 ? 0 : min(r, args.n_rows - 1);
        const float x = args.x[uint64_t{row} * args.n_in + k];
#pragma unroll
        for (uint32_t e = 0; e < kWidth; ++e) {
          float& to = acc[r * kWidth + e];
          to = fmaf(float_weight<kType>(weights[i], e), x, to);
        }
      }
    }
  }
  store_joined<kRows, kWidth>(acc, work.lane, work.sums);
}

}  // namespace
}  // namespace strata::gpu_attn
