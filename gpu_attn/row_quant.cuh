// gpu_attn/row_quant.cuh - what kernels that give rows share: four neighbouring values per lane,
// sums over a block, and the int8 form of values that are in registers. Why: whoever has a row in
// registers quantises it for free; a launch of its own reads it again.
//
// Formula  per group of 32: scale = max|x| / 127, q = x * (127 / max|x|) to nearest even, as
//          cpu_attn/quantize_scale.inc: a group below 2^-120 is zero, a NaN or an infinity makes
//          the scale one.
#pragma once

#include "base/kernel_table.h"
#include "gpu_attn/gpu.cuh"

namespace strata::gpu_attn {

inline constexpr uint32_t kMagnitudeBits = 0x7fffffffu;  // of a float: all but its sign
inline constexpr float kRoundToInt = 0x1.8p23f;  // added to |x| < 2^22, leaves x rounded in the low
                                                 // bits, ties to even

__device__ __forceinline__ float4 zero4() { return make_float4(0.0f, 0.0f, 0.0f, 0.0f); }
/// Values 4 vec .. 4 vec + 3; x is 16-byte aligned.
__device__ __forceinline__ float4 load4(const float* x, uint64_t vec) {
  return reinterpret_cast<const float4*>(x)[vec];
}
__device__ __forceinline__ void store4(float* x, uint64_t vec, float4 value) {
  reinterpret_cast<float4*>(x)[vec] = value;
}
__device__ __forceinline__ float4 add4(float4 a, float4 b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
__device__ __forceinline__ float4 mul4(float4 a, float4 b) {
  return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}
__device__ __forceinline__ float4 scale4(float4 a, float factor) {
  return make_float4(a.x * factor, a.y * factor, a.z * factor, a.w * factor);
}
/// sum + the squares of the four, in order.
__device__ __forceinline__ float add_squares(float4 a, float sum) {
  return fmaf(a.w, a.w, fmaf(a.z, a.z, fmaf(a.y, a.y, fmaf(a.x, a.x, sum))));
}

/// The sum over the warp, the same bits in every lane.
__device__ __forceinline__ float warp_sum(float value) {
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(kFullMask, value, mask);
  return value;
}

/// The sum over the block's threads (whole warps), the same bits in every thread. `partials` holds
/// 32 floats that no one else uses before the next barrier.
__device__ __forceinline__ float block_sum(float value, float* partials) {
  const uint32_t lane = threadIdx.x % 32;
  value = warp_sum(value);
  if (lane == 0) partials[threadIdx.x / 32] = value;
  __syncthreads();
  return warp_sum(lane < blockDim.x / 32 ? partials[lane] : 0.0f);
}

__device__ __forceinline__ uint32_t largest_magnitude(float4 x) {
  return max(max(float_to_bits(x.x) & kMagnitudeBits, float_to_bits(x.y) & kMagnitudeBits),
             max(float_to_bits(x.z) & kMagnitudeBits, float_to_bits(x.w) & kMagnitudeBits));
}

/// Writes the int8 form of values at .. at + 3 of rows [n_rows, n] counted in one (n is a multiple
/// of 32). The whole warp calls it; at / 4 mod 8 = lane mod 8, so that eight lanes hold a group;
/// lanes of a group that is not real (all of them) write nothing.
__device__ __forceinline__ void store_quant4(const QuantRows& to, uint64_t at, float4 x,
                                             bool is_real) {
  // Bits of |x| order as integers do, and a NaN is above every number, so that it is not lost.
  uint32_t max_bits = largest_magnitude(x);
  for (int mask = 1; mask < 8; mask *= 2)
    max_bits = max(max_bits, __shfl_xor_sync(kFullMask, max_bits, mask));
  const float max_abs = bits_to_float(max_bits);
  const bool is_zero = max_abs < 0x1p-120f;
  const float to_code = is_zero ? 0.0f : 127.0f / max_abs;
  const uint32_t low = byte_perm(float_to_bits(fmaf(x.x, to_code, kRoundToInt)),
                                 float_to_bits(fmaf(x.y, to_code, kRoundToInt)), 0x0040);
  const uint32_t high = byte_perm(float_to_bits(fmaf(x.z, to_code, kRoundToInt)),
                                  float_to_bits(fmaf(x.w, to_code, kRoundToInt)), 0x0040);
  const uint32_t codes = byte_perm(low, high, 0x5410);
  int32_t neg_sum = dot4(static_cast<int32_t>(codes), -1, 0);  // four times -1
  neg_sum += __shfl_xor_sync(kFullMask, neg_sum, 1);
  neg_sum += __shfl_xor_sync(kFullMask, neg_sum, 2);
  if (!is_real) return;
  const uint32_t lane = threadIdx.x % 32;
  reinterpret_cast<uint32_t*>(to.q)[at / 4] = codes;
  if (lane % 4 == 0) to.neg_sums[at / kActHalfGroup] = neg_sum;
  if (lane % 8 == 0) to.scales[at / kActGroup] = is_zero ? 0.0f : max_abs / 127.0f;
}

}  // namespace strata::gpu_attn
