// gpu_attn/attend_general.cuh - decode attention for head sizes that no tensor-core kernel is
// compiled for: any multiple of 8 (of 32 with q8_0), in f32. Why: every model that loads must run;
// those of odd sizes need not run at the speed of memory.
//
// A warp takes the blocks of its thread block's share in turn. Scores: lane = position, a row of K
// being 32 neighbouring positions; weights pass through shared memory; values: lane = dimension, in
// strides of 32, the sums of each query in shared memory, where only this lane touches them.
#pragma once

#include "gpu_attn/attend_partial.cuh"

namespace strata::gpu_attn {

inline constexpr uint32_t kGeneralWarps = 4;  // at most; fewer where head_dim is large
inline constexpr uint32_t kGeneralHeadDimMax = 1024;

/// Warps of a thread block: their outputs take 8 floats per dimension each, q as much again.
constexpr uint32_t general_warps(uint32_t head_dim) {
  return head_dim <= 256 ? kGeneralWarps : head_dim <= 512 ? 2 : 1;
}
/// q [head_dim][8]; weights [n_warps][32][8]; outputs [n_warps][8][head_dim + kOutputPadding].
constexpr uint32_t general_shared_bytes(uint32_t head_dim) {
  const uint32_t per_warp = (kBlockPositions + head_dim + kOutputPadding) * kAttendTileQueries * 4;
  return head_dim * kAttendTileQueries * 4 + general_warps(head_dim) * per_warp;
}

/// An element of a part of a block, its scale left out.
__device__ __forceinline__ float element(KvCodec codec, const std::byte* part, uint32_t i) {
  if (codec == KvCodec::kF16) return f16_to_float(reinterpret_cast<const uint16_t*>(part)[i]);
  return static_cast<float>(reinterpret_cast<const int8_t*>(part)[i]);
}
__device__ __forceinline__ float group_scale(KvCodec codec, const std::byte* scales, uint32_t dim,
                                             uint32_t position) {
  if (codec == KvCodec::kF16) return 1;
  return f16_to_float(
      reinterpret_cast<const uint16_t*>(scales)[dim / 32 * kBlockPositions + position]);
}

/// A lane's scores: the position is its number.
__device__ __forceinline__ void general_scores(const KvLayout& layout, const std::byte* block,
                                               const float* q, float (&scores)[8]) {
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (uint32_t j = 0; j < 8; ++j) scores[j] = 0;
  for (uint32_t first = 0; first < layout.head_dim; first += 32) {
    const uint32_t end = min(first + 32, layout.head_dim);
    float sums[8] = {};
    for (uint32_t dim = first; dim < end; ++dim) {
      const float k = element(layout.k_codec, block, dim * kBlockPositions + lane);
#pragma unroll
      for (uint32_t j = 0; j < 8; ++j) sums[j] = fmaf(q[dim * 8 + j], k, sums[j]);
    }
    const float scale = group_scale(layout.k_codec, block + layout.k_scales_offset, first, lane);
#pragma unroll
    for (uint32_t j = 0; j < 8; ++j) scores[j] = fmaf(sums[j], scale, scores[j]);
  }
}

/// Adds n_positions weighted rows of V to the outputs, which shrink first.
__device__ __forceinline__ void general_values(const KvLayout& layout, const std::byte* block,
                                               uint32_t n_positions, const float* weights,
                                               const float (&shrink)[8], float* outputs) {
  const std::byte* v = block + layout.v_offset;
  for (uint32_t dim = threadIdx.x % 32; dim < layout.head_dim; dim += 32) {
    float sums[8];
#pragma unroll
    for (uint32_t j = 0; j < 8; ++j)
      sums[j] = outputs[j * (layout.head_dim + kOutputPadding) + dim] * shrink[j];
    for (uint32_t p = 0; p < n_positions; ++p) {
      const float value = element(layout.v_codec, v, p * layout.head_dim + dim) *
                          group_scale(layout.v_codec, block + layout.v_scales_offset, dim, p);
#pragma unroll
      for (uint32_t j = 0; j < 8; ++j) sums[j] = fmaf(weights[p * 8 + j], value, sums[j]);
    }
#pragma unroll
    for (uint32_t j = 0; j < 8; ++j)
      outputs[j * (layout.head_dim + kOutputPadding) + dim] = sums[j];
  }
}

/// A warp's running sums; l of this lane's positions.
struct GeneralState {
  float top[8];  // in log2 units, the same in all lanes
  float l[8];
};

/// One block: scores, weights and values.
__device__ __forceinline__ void general_block(const DeviceAttendArgs& args,
                                              const AttendShare& share, const std::byte* block,
                                              uint32_t first_position, uint32_t end, const float* q,
                                              float* weights, float* outputs, GeneralState& state) {
  const uint32_t lane = threadIdx.x % 32;
  float scores[8], shrink[8];
  general_scores(args.layout, block, q, scores);
#pragma unroll
  for (uint32_t j = 0; j < 8; ++j) {
    const uint32_t position = first_position + lane;
    const PositionRange mine = attended(
        args, position_of(args, share.first_row) + row_of_query(args, j) - share.first_row);
    const bool is_attended = position >= mine.begin && position < mine.end;
    const float score = is_attended ? scores[j] * kLog2E : minus_infinity();
    float top = fmaxf(score, state.top[j]);
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
      top = fmaxf(top, __shfl_xor_sync(kFullMask, top, step));
    shrink[j] = state.top[j] == top ? 1 : exp2_approx(state.top[j] - top);
    const float weight = is_attended ? exp2_approx(score - top) : 0;
    state.top[j] = top;
    state.l[j] = fmaf(state.l[j], shrink[j], weight);
    weights[lane * 8 + j] = weight;
  }
  __syncwarp(kFullMask);
  general_values(args.layout, block, min(end - first_position, kBlockPositions), weights, shrink,
                 outputs);
  __syncwarp(kFullMask);
}

__global__ void __launch_bounds__(kGeneralWarps * 32, 4)
    attend_general(const DeviceAttendArgs args) {
  GPU_DYN_SHARED(shared);
  GPU_SHARED(PartialsInShared<kGeneralWarps>, partials);
  const uint32_t head_dim = args.layout.head_dim;
  const uint32_t n_warps = blockDim.x / 32;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t lane = threadIdx.x % 32;
  auto* q = reinterpret_cast<float*>(shared);
  float* weights = q + head_dim * 8 + warp * kBlockPositions * 8;
  float* all_outputs = q + head_dim * 8 + n_warps * kBlockPositions * 8;
  float* outputs = all_outputs + warp * 8 * (head_dim + kOutputPadding);
  const AttendShare share = attend_share(args);

  for (uint32_t i = threadIdx.x; i < 8 * head_dim; i += blockDim.x) {
    const uint32_t query = i / head_dim;
    q[i % head_dim * 8 + query] =
        query < share.n_queries ? args.q[share.first_query * head_dim + i] : 0;
  }
  for (uint32_t i = lane; i < 8 * (head_dim + kOutputPadding); i += 32) outputs[i] = 0;
  __syncthreads();

  GeneralState state;
#pragma unroll
  for (uint32_t j = 0; j < 8; ++j) {
    state.top[j] = minus_infinity();
    state.l[j] = 0;
  }
  const uint32_t last_position = position_of(args, share.last_row);
  const uint32_t n_blocks = blocks_to_attend(args, share, last_position);
  for (uint32_t b = warp; b < n_blocks; b += n_warps) {
    const uint32_t first_position = (args.first_block + share.begin + b) * kBlockPositions;
    general_block(args, share, share.head_table[share.begin + b], first_position, last_position + 1,
                  q, weights, outputs, state);
  }
#pragma unroll
  for (uint32_t j = 0; j < 8; ++j) {
    float l = state.l[j];
#pragma unroll
    for (int step = 16; step > 0; step /= 2) l += __shfl_xor_sync(kFullMask, l, step);
    if (lane == 0) {
      partials.top[warp][j] = state.top[j];
      partials.reference[warp][j] = state.top[j];
      partials.l[warp][j] = l;
    }
  }
  __syncthreads();
  write_partials(args, share, partials, all_outputs, n_warps);
}

}  // namespace strata::gpu_attn
