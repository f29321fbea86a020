// gpu_attn/attend_tensor.cuh - decode attention by the tensor cores, for the head sizes that models
// have. What it does and why: the top of attend.cu.
#pragma once

#include "gpu_attn/attend_partial.cuh"
#include "gpu_attn/attend_shape.cuh"

namespace strata::gpu_attn {

// Weights are multiplied by 2^14 before they become pairs of f16, so that those of 2^-26 still have
// all their bits; q8_0 scales below 2 keep the product below 2^15. One of 2 or more (values beyond
// 254) takes the warp down to 2^-1, for good: every scale fits then.
inline constexpr float kHighBias = 14;
inline constexpr float kLowBias = -1;
inline constexpr uint32_t kTwoOrMore = 0x40004000u;  // the bit of f16 that says so, in both halves

/// What a lane knows of query lane / 4; the four lanes of a query differ in l and o.
template <class Shape>
struct QueryState {
  float per_unit;  // log2 units of a unit of the tensor cores' scores
  float top;       // the largest score so far, in those units
  float reference;
  float bias;
  float l;
  float o[Shape::kTiles][4];  // rows 0 and 1: of the weights' high halves; 2 and 3: of their low
  PositionRange all;          // positions that every query of the tile attends
};

/// What the warps of a thread block know together.
template <class Shape>
struct QueriesInShared {
  uint2 operands[Shape::kSteps][32][2];    // of a lane: registers 0 and 1, 2 and 3
  float per_unit[kAttendTileQueries];      // as QueryState
  PositionRange mine[kAttendTileQueries];  // that each query attends
  uint32_t end;                            // one more than the last that any does
};

/// The warp's way through its blocks and its part of shared memory. Item i of block b is copied
/// when item i of block b - kStages has been read.
template <class Shape>
struct Pipeline {
  unsigned char* stages;
  const std::byte* const* table;  // every kWarps-th entry is the warp's
  uint32_t n_table;               // of them
  uint32_t n_blocks;              // that are attended
  const std::byte* ahead;         // the block whose items are copied next
  const std::byte* later;         // the block after it

  __device__ __forceinline__ const std::byte* look_up(uint32_t b) const {
    return b < n_table ? table[b * Shape::kWarps] : nullptr;
  }
  __device__ __forceinline__ unsigned char* stage(uint32_t b) const {
    return stages + b % Shape::kStages * Shape::kBlockBytes;
  }
};

/// A float as the sum of two f16, to 2^-22 of itself: a pair of them in each register.
__device__ __forceinline__ void split_halves(float x, float y, uint32_t& high, uint32_t& low) {
  high = floats_to_f16x2(x, y);
  const float2 rounded = f16x2_to_float2(high);
  low = floats_to_f16x2(x - rounded.x, y - rounded.y);
}

/// The queries as the left operand, in shared memory: rows 0..7 of its 16 hold the high halves,
/// rows 8..15 the low. A warp takes every kWarps-th query, scales it by a power of two to below
/// 2^11 and splits it. All of it lies before a barrier.
template <class Shape>
__device__ __forceinline__ void store_queries(const DeviceAttendArgs& args,
                                              const AttendShare& share,
                                              QueriesInShared<Shape>& to) {
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t query = threadIdx.x / 32; query < kAttendTileQueries; query += Shape::kWarps) {
    const bool is_real = query < share.n_queries;
    const auto* from = reinterpret_cast<const float2*>(
        args.q + (share.first_query + (is_real ? query : 0)) * Shape::kHeadDim);
    float largest = 0;
    for (uint32_t pair = lane; pair < Shape::kHeadDim / 2; pair += 32)
      largest = fmaxf(largest, fmaxf(fabsf(from[pair].x), fabsf(from[pair].y)));
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
      largest = fmaxf(largest, __shfl_xor_sync(kFullMask, largest, step));
    // Exponents: 2^(e - 127) <= largest < 2^(e - 126); multiplied by 2^(137 - e).
    const uint32_t exponent = max(float_to_bits(largest) >> 23, 11u);
    const float up = is_real ? bits_to_float((264 - exponent) << 23) : 0;
    if (lane == 0) {
      to.per_unit[query] = kLog2E * bits_to_float((exponent - 10) << 23);
      to.mine[query] = attended(args, position_of(args, row_of_query(args, query)));
    }
    for (uint32_t pair = lane; pair < Shape::kHeadDim / 2; pair += 32) {
      uint32_t high, low;
      split_halves(from[pair].x * up, from[pair].y * up, high, low);
      // Registers 0 and 1 of an operand are dimensions 2t, 2t + 1 of the step, 2 and 3 those 8 on.
      to.operands[pair / 8][query * 4 + pair % 4][pair % 8 / 4] = make_uint2(high, low);
    }
  }
}

/// The position in its block of score e of tile i.
template <class Shape>
__device__ __forceinline__ uint32_t score_position(uint32_t i, uint32_t e) {
  const uint32_t t = threadIdx.x % 4;
  return Shape::kScaledK ? i / 2 * 16 + 4 * t + 2 * e + i % 2 : i * 8 + 2 * t + e;
}

/// Adds the products of dimensions [kBegin, kEnd) to the scores of the block's 32 positions: four
/// tiles of 8. f16 keeps the sums of q's halves apart (rows 0, 1 and 2, 3); q8_0 adds them group by
/// group, times the scales, into rows 0 and 1.
template <class Shape, uint32_t kBegin, uint32_t kEnd>
__device__ __forceinline__ void add_scores(const QueriesInShared<Shape>& queries,
                                           const unsigned char* stage, float (&scores)[4][4]) {
  using KOperands = Operands<Shape::kScaledK>;
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t offset = operand_offset<Shape::kKUnits>(lane);
  constexpr uint32_t kSpan = Shape::kScaledK ? kScaleGroup : kEnd - kBegin;
#pragma unroll 1
  for (uint32_t dim = kBegin; dim < kEnd; dim += kSpan) {
    float sums[4][4] = {};
    float(&into)[4][4] = Shape::kScaledK ? sums : scores;
#pragma unroll
    for (uint32_t i = 0; i < kSpan / 16; ++i) {
      const uint32_t step = dim / 16 + i;
      const auto& q = reinterpret_cast<const uint4&>(queries.operands[step][lane]);
      const uint32_t a[4] = {q.x, q.y, q.z, q.w};
      const unsigned char* rows = stage + step * 16 * Shape::kKUnits * kUnitBytes;
#pragma unroll
      for (uint32_t pair = 0; pair < Shape::kKUnits / 2; ++pair) {
        const KOperands k(rows + pair_offset<Shape::kKUnits>(offset, pair));
#pragma unroll
        for (uint32_t tile = 0; tile < KOperands::kTiles; ++tile)
          mma_f16(into[pair * KOperands::kTiles + tile], a, k.b[tile]);
      }
    }
    if constexpr (Shape::kScaledK) {
      const auto* scales = reinterpret_cast<const uint2*>(stage + Shape::kKScales) +
                           dim / kScaleGroup * (kBlockPositions / 4) + lane % 4;
#pragma unroll
      for (uint32_t half = 0; half < 2; ++half) {
        const uint2 four = scales[half * 4];  // of positions 16 half + 4 t ..
        const float2 first = f16x2_to_float2(four.x);
        const float2 second = f16x2_to_float2(four.y);
        float(&even)[4] = sums[half * 2];
        float(&odd)[4] = sums[half * 2 + 1];
        scores[half * 2][0] = fmaf(first.x, even[0] + even[2], scores[half * 2][0]);
        scores[half * 2][1] = fmaf(second.x, even[1] + even[3], scores[half * 2][1]);
        scores[half * 2 + 1][0] = fmaf(first.y, odd[0] + odd[2], scores[half * 2 + 1][0]);
        scores[half * 2 + 1][1] = fmaf(second.y, odd[1] + odd[3], scores[half * 2 + 1][1]);
      }
    }
  }
}

template <class Shape>
__device__ __forceinline__ void scale_sums(QueryState<Shape>& state, float factor) {
  state.l *= factor;
#pragma unroll
  for (uint32_t i = 0; i < Shape::kTiles; ++i) {
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) state.o[i][j] *= factor;
  }
}

/// Scores become weights in place (elements 0 and 1 of each tile); sums so far are rescaled where a
/// query's largest score grew, or the bias changed.
template <class Shape>
__device__ __forceinline__ void weigh(QueryState<Shape>& state,
                                      const QueriesInShared<Shape>& queries,
                                      uint32_t first_position, float bias, float (&scores)[4][4]) {
  if constexpr (!Shape::kScaledK) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      scores[i][0] += scores[i][2];
      scores[i][1] += scores[i][3];
    }
  }
  if (first_position < state.all.begin || first_position + kBlockPositions > state.all.end) {
    const PositionRange mine = queries.mine[threadIdx.x % 32 / 4];
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
#pragma unroll
      for (uint32_t e = 0; e < 2; ++e) {
        const uint32_t position = first_position + score_position<Shape>(i, e);
        const bool is_attended = position >= mine.begin && position < mine.end;
        scores[i][e] = is_attended ? scores[i][e] : minus_infinity();
      }
    }
  }
  float top = state.top;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) top = fmaxf(top, fmaxf(scores[i][0], scores[i][1]));
  top = fmaxf(top, __shfl_xor_sync(kFullMask, top, 1));
  top = fmaxf(top, __shfl_xor_sync(kFullMask, top, 2));
  const bool moves = top > state.top || (bias != state.bias && top != minus_infinity());
  state.bias = bias;
  if (__any_sync(kFullMask, moves)) {
    const float reference = fmaf(top, state.per_unit, -bias);
    const float shrink =
        state.top == minus_infinity() ? 0 : exp2_approx(state.reference - reference);
    scale_sums(state, moves ? shrink : 1);
    state.top = top;
    state.reference = moves ? reference : state.reference;
  }
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
#pragma unroll
    for (uint32_t e = 0; e < 2; ++e) {
      scores[i][e] = exp2_approx(fmaf(scores[i][e], state.per_unit, -state.reference));
      state.l += scores[i][e];
    }
  }
}

/// The bias for the scales of a block of V: once low, it stays so.
template <class Shape>
__device__ __forceinline__ float bias_for(const QueryState<Shape>& state,
                                          const unsigned char* stage) {
  if constexpr (!Shape::kScaledV) {
    return kHighBias;
  } else {
    constexpr uint32_t kWords = Shape::kGroups * kBlockPositions / 2;
    const auto* scales = reinterpret_cast<const uint32_t*>(stage + Shape::kVScales);
    uint32_t bits = 0;
#pragma unroll
    for (uint32_t word = 0; word < kWords; word += 32)
      if (word + threadIdx.x % 32 < kWords) bits |= scales[word + threadIdx.x % 32];
    return __any_sync(kFullMask, (bits & kTwoOrMore) != 0) ? kLowBias : state.bias;
  }
}

/// A lane's weights of 16 positions in the order of V's rows, as halves: pairs of neighbours.
template <class Shape, uint32_t kHalf>
__device__ __forceinline__ void split_weights(const float (&weights)[4][4], uint32_t (&high)[2],
                                              uint32_t (&low)[2]) {
  const float(&w0)[4] = weights[kHalf * 2];
  const float(&w1)[4] = weights[kHalf * 2 + 1];
  split_halves(w0[0], Shape::kScaledK ? w1[0] : w0[1], high[0], low[0]);
  split_halves(Shape::kScaledK ? w0[1] : w1[0], w1[1], high[1], low[1]);
}

/// Adds the weighted values of 16 positions, f16.
template <class Shape, uint32_t kHalf>
__device__ __forceinline__ void add_plain_values(QueryState<Shape>& state,
                                                 const unsigned char* stage,
                                                 const float (&weights)[4][4]) {
  const uint32_t offset = operand_offset<Shape::kVUnits>(threadIdx.x % 32);
  const unsigned char* rows = stage + Shape::kV + kHalf * kHalfBlock * Shape::kVUnits * kUnitBytes;
  uint32_t high[2], low[2];
  split_weights<Shape, kHalf>(weights, high, low);
  const uint32_t a[4] = {high[0], low[0], high[1], low[1]};
#pragma unroll
  for (uint32_t pair = 0; pair < Shape::kVUnits / 2; ++pair) {
    const Operands<false> v(rows + pair_offset<Shape::kVUnits>(offset, pair));
    mma_f16(state.o[pair * 2], a, v.b[0]);
    mma_f16(state.o[pair * 2 + 1], a, v.b[1]);
  }
}

/// Adds the weighted values of 16 positions, q8_0: every group of 32 dimensions has weights of its
/// own, times its scales. A product of f16 is the sum of two: itself rounded, and what that leaves.
template <class Shape, uint32_t kHalf>
__device__ __forceinline__ void add_scaled_values(QueryState<Shape>& state,
                                                  const unsigned char* stage,
                                                  const float (&weights)[4][4]) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t offset = operand_offset<Shape::kVUnits>(lane);
  const unsigned char* rows = stage + Shape::kV + kHalf * kHalfBlock * Shape::kVUnits * kUnitBytes;
  const auto* scales = reinterpret_cast<const uint32_t*>(stage + Shape::kVScales) + kHalf * 8;
  uint32_t high[2], low[2];
  split_weights<Shape, kHalf>(weights, high, low);
  // Scales of this lane's four positions: neighbours where K is q8_0.
  scales += Shape::kScaledK ? lane % 4 * 2 : lane % 4;
#pragma unroll
  for (uint32_t group = 0; group < Shape::kGroups; ++group) {
    uint32_t a[4];
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t scale = scales[group * 16 + i * (Shape::kScaledK ? 1 : 4)];
      a[i * 2] = mul_f16x2(high[i], scale);
      const uint32_t left = fma_f16x2(high[i], scale, negate_f16x2(a[i * 2]));
      a[i * 2 + 1] = fma_f16x2(low[i], scale, left);
    }
    const Operands<true> v(rows + pair_offset<Shape::kVUnits>(offset, group));
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) mma_f16(state.o[group * 4 + i], a, v.b[i]);
  }
}

template <class Shape, uint32_t kHalf>
__device__ __forceinline__ void add_values(QueryState<Shape>& state, const unsigned char* stage,
                                           const float (&weights)[4][4]) {
  if constexpr (Shape::kScaledV) {
    add_scaled_values<Shape, kHalf>(state, stage, weights);
  } else {
    add_plain_values<Shape, kHalf>(state, stage, weights);
  }
}

/// Clears what no one wrote of V's positions [kBegin, kEnd) of the block.
template <class Shape, uint32_t kBegin, uint32_t kEnd>
__device__ __forceinline__ void clear_tail(const QueryState<Shape>& state,
                                           const QueriesInShared<Shape>& queries,
                                           unsigned char* stage, uint32_t first_position) {
  if (first_position + kEnd <= state.all.end) return;
  const uint32_t n_real = queries.end > first_position ? queries.end - first_position : 0;
  clear_values<Shape, kBegin, kEnd>(stage, n_real, threadIdx.x % 32);
  __syncwarp(kFullMask);
}

/// Waits for item kItem of the block at hand and starts the copy that takes the place of the item
/// before it, which every lane has read.
template <class Shape, uint32_t kItem>
__device__ __forceinline__ void next_item(const Pipeline<Shape>& pipeline, uint32_t b) {
  cp_async_wait<static_cast<int>(Shape::kStages * Shape::kItems - 2)>();
  __syncwarp(kFullMask);
  constexpr uint32_t kBefore = (kItem + Shape::kItems - 1) % Shape::kItems;
  const uint32_t of = kItem == 0 ? b + Shape::kStages - 1 : b + Shape::kStages;
  if (of < pipeline.n_blocks)
    copy_item<Shape, kBefore>(pipeline.stage(of), pipeline.ahead, threadIdx.x % 32);
  cp_async_commit();
}

/// Starts the copies of the first kStages blocks, but for the last item.
template <class Shape>
__device__ __forceinline__ void fill_pipeline(Pipeline<Shape>& pipeline) {
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (uint32_t b = 0; b < Shape::kStages; ++b) {
    pipeline.ahead = pipeline.later;
    pipeline.later = pipeline.look_up(b + 1);
    const bool is_real = b < pipeline.n_blocks;
    unsigned char* stage = pipeline.stage(b);
    if (is_real) copy_item<Shape, 0>(stage, pipeline.ahead, lane);
    cp_async_commit();
    if (is_real) copy_item<Shape, 1>(stage, pipeline.ahead, lane);
    cp_async_commit();
    if (b + 1 == Shape::kStages && Shape::kItems == 3) break;
    if (is_real) copy_item<Shape, 2>(stage, pipeline.ahead, lane);
    cp_async_commit();
    if (b + 1 == Shape::kStages || Shape::kItems == 3) continue;
    if (is_real) copy_item<Shape, 3>(stage, pipeline.ahead, lane);
    cp_async_commit();
  }
}

/// One block: scores, weights, values, each item as it arrives.
template <class Shape>
__device__ __forceinline__ void attend_block(Pipeline<Shape>& pipeline, QueryState<Shape>& state,
                                             const QueriesInShared<Shape>& queries, uint32_t b,
                                             uint32_t first_position) {
  unsigned char* stage = pipeline.stage(b);
  float scores[4][4] = {};
  next_item<Shape, 0>(pipeline, b);
  pipeline.ahead = pipeline.later;
  pipeline.later = pipeline.look_up(b + Shape::kStages + 1);
  add_scores<Shape, 0, Shape::kFirstDims>(queries, stage, scores);
  next_item<Shape, 1>(pipeline, b);
  add_scores<Shape, Shape::kFirstDims, Shape::kHeadDim>(queries, stage, scores);
  if constexpr (Shape::kScaledV) {
    next_item<Shape, 2>(pipeline, b);
    clear_tail<Shape, 0, kBlockPositions>(state, queries, stage, first_position);
    weigh(state, queries, first_position, bias_for(state, stage), scores);
    add_values<Shape, 0>(state, stage, scores);
    add_values<Shape, 1>(state, stage, scores);
  } else {
    weigh(state, queries, first_position, kHighBias, scores);
    next_item<Shape, 2>(pipeline, b);
    clear_tail<Shape, 0, kHalfBlock>(state, queries, stage, first_position);
    add_values<Shape, 0>(state, stage, scores);
    next_item<Shape, 3>(pipeline, b);
    clear_tail<Shape, kHalfBlock, kBlockPositions>(state, queries, stage, first_position);
    add_values<Shape, 1>(state, stage, scores);
  }
}

/// The warp's sums to shared memory, the two halves of the weights added.
template <class Shape>
__device__ __forceinline__ void store_sums(const QueryState<Shape>& state,
                                           PartialsInShared<Shape::kWarps>& partials,
                                           float* outputs) {
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t query = threadIdx.x % 32 / 4;
  const uint32_t t = threadIdx.x % 4;
  float l = state.l;
  l += __shfl_xor_sync(kFullMask, l, 1);
  l += __shfl_xor_sync(kFullMask, l, 2);
  if (t == 0) {
    partials.top[warp][query] = state.top * state.per_unit;
    partials.reference[warp][query] = state.reference;
    partials.l[warp][query] = l;
  }
  float* to = outputs + (warp * kAttendTileQueries + query) * (Shape::kHeadDim + kOutputPadding);
#pragma unroll
  for (uint32_t i = 0; i < Shape::kTiles; i += 2) {
    const float(&even)[4] = state.o[i];
    const float(&odd)[4] = state.o[i + 1];
    if constexpr (Shape::kScaledV) {
      // An int8 pair of tiles holds even and odd dimensions of 16.
      reinterpret_cast<float4*>(to + i * 8)[t] =
          make_float4(even[0] + even[2], odd[0] + odd[2], even[1] + even[3], odd[1] + odd[3]);
    } else {
      reinterpret_cast<float2*>(to + i * 8)[t] = make_float2(even[0] + even[2], even[1] + even[3]);
      reinterpret_cast<float2*>(to + i * 8 + 8)[t] = make_float2(odd[0] + odd[2], odd[1] + odd[3]);
    }
  }
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, kAttendThreadBlocksPerMultiprocessor)
    attend_tensor(const DeviceAttendArgs args) {
  GPU_DYN_SHARED(shared);
  GPU_SHARED(PartialsInShared<Shape::kWarps>, partials);
  constexpr uint32_t kOutputsBytes =
      Shape::kWarps * kAttendTileQueries * (Shape::kHeadDim + kOutputPadding) * sizeof(float);
  static_assert(kOutputsBytes <= Shape::kStagesBytes);
  static_assert(sizeof(QueriesInShared<Shape>) <= Shape::kQueriesBytes);
  const uint32_t warp = threadIdx.x / 32;
  const AttendShare share = attend_share(args);

  Pipeline<Shape> pipeline;
  pipeline.stages = shared + warp * Shape::kStages * Shape::kBlockBytes;
  pipeline.table = share.head_table + share.begin + warp;
  const uint32_t n_table = share.end > share.begin ? share.end - share.begin : 0;
  pipeline.n_table = (n_table + Shape::kWarps - 1 - warp) / Shape::kWarps;
  pipeline.later = pipeline.look_up(0);

  QueryState<Shape> state;
  const uint32_t last_position = position_of(args, share.last_row);
  state.all = {attended(args, last_position).begin, position_of(args, share.first_row) + 1};
  const uint32_t n_blocks = blocks_to_attend(args, share, last_position);
  pipeline.n_blocks = (n_blocks + Shape::kWarps - 1 - warp) / Shape::kWarps;
  fill_pipeline(pipeline);

  auto& queries = *reinterpret_cast<QueriesInShared<Shape>*>(shared + Shape::kStagesBytes);
  store_queries<Shape>(args, share, queries);
  if (threadIdx.x == 0) queries.end = last_position + 1;
  __syncthreads();
  state.per_unit = queries.per_unit[threadIdx.x % 32 / 4];
  state.top = minus_infinity();
  state.reference = 0;
  state.bias = kHighBias;
  state.l = 0;
#pragma unroll
  for (uint32_t i = 0; i < Shape::kTiles; ++i) {
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) state.o[i][j] = 0;
  }
  uint32_t position = (args.first_block + share.begin + warp) * kBlockPositions;
  for (uint32_t b = 0; b < pipeline.n_blocks; ++b, position += Shape::kWarps * kBlockPositions)
    attend_block(pipeline, state, queries, b, position);

  cp_async_wait<0>();
  __syncthreads();
  auto* outputs = reinterpret_cast<float*>(shared);
  store_sums(state, partials, outputs);
  __syncthreads();
  write_partials(args, share, partials, outputs, Shape::kWarps);
}

}  // namespace strata::gpu_attn
