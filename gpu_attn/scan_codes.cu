// gpu_attn/scan_codes.cu - scores of blocks by the rotated codes of their keys.
//
// Formula  queries: gpu_attn/scan_queries.cuh. value = factor * 8 (codes . q - 3.5 * sum of q), one
//          rounding; score of a block = ln sum exp(scale factor_step value / 8) over its 32 keys +
//          scale centre_step (centre - 64) . q
// Shapes   base/device_kernels.h, DeviceScanArgs; tiles as base/index_kernels.h lays them out
// Threads  a thread block: one KV head, whose queries its warps turn first; then a warp per tile.
//          Eight queries are the columns of a product of bytes in the tensor cores, and its rows
//          are a key of a block each. No lanes exchange anything for it: lane l reads the words of
//          group l % 4 (and of 4 groups on) of one key of four neighbouring blocks, 16 bytes each,
//          which are four rows of an operand once they are unpacked; what comes back to it are
//          products of these rows, with queries 2 (l % 4) and the next. So a lane has four blocks,
//          eight keys of each, and keeps their largest value and sum up to date; four lanes have a
//          block together and join at the tile's end. Centres go the same way, a row per block.
//          Up to head_dim 64 (kKeys = 2) lanes l % 4 = 2 and 3 have groups 0 and 1 of another key,
//          and columns 4 to 7 are queries 0 to 3 for it: no products of zeros
// Codes    of eight quads the odd ones stay where they are in their bytes, so that they count eight
//          times: sums of their own, 13 operations to unpack instead of 17
// Loads    1,536 neighbouring bytes a step of a warp (head_dim 128), 16 a lane at a time, copied
//          into shared memory three steps ahead; beyond head_dim 128 one step of twice as many. A
//          tile is read once for 16 queries (head_dim up to 64: for 8)
// Bytes    scan_codes_bytes(args), operations scan_codes_ops(args): gpu_attn/scan_bytes.h. For 8
//          queries a step is 205 instructions of a warp (nvcc 13, 9.0), 16 of them products; an
//          H200's memory takes 340 clocks to give a quarter of a multiprocessor its bytes
// Numbers  sums begin at the bits of a float (kSumStart); exp2 by the card's approximation (2 ulp)
#include "gpu_attn/scan_queries.cuh"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "gpu_attn/device_stream.cuh"
#include "gpu_attn/kernels.h"
#include "gpu_attn/scan_bytes.h"

namespace strata::gpu_attn {
namespace {

constexpr uint32_t kWarps = 4;
constexpr uint32_t kColumns = 8;     // of a product
constexpr uint32_t kSlots = 4;       // lanes that have a row of an operand together
constexpr uint32_t kLaneBlocks = 4;  // whose codes a lane holds
constexpr uint32_t kLaneBytes = kLaneBlocks * sizeof(uint32_t);
constexpr uint32_t kLineBytes = 2 * kExtentBlocks * sizeof(uint32_t);  // a word of a pair of keys
constexpr uint32_t kWarpBytes = 32 * kLaneBytes;  // that its lanes load at once
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr float kNoValue = -1e30f;  // below every value

// Sums begin at the bits of 1.5 * 2^23, so that those of their end are a float's. They are at most
// 8 * 3.5 * 127 * kDeviceScanHeadDimMax < 2^22.
constexpr int32_t kSumStart = 0x4B400000;
constexpr float kSumStartValue = 0x1.8p23f;
constexpr int32_t kOddWeight = 8;  // of quads that are not shifted
constexpr int32_t kMiddle = kOddWeight * int32_t{kRabitqLevels - 1} / 2;  // of as many codes

constexpr uint32_t kTileWarps = 2048;  // that the tiles of a launch are spread over
constexpr uint32_t kWarpTilesMax = 8;
constexpr uint32_t kManyQueriesTiles = 2;  // of a warp at least, where turning them is much work

/// kChunk groups of dimensions lie side by side in a product; kChunks chunks are a head. Lanes have
/// kKeys keys side by side. A pass takes kTiles tiles of queries.
template <uint32_t kChunksOf, uint32_t kKeysOf, uint32_t kTilesOf>
struct ScanPlan {
  static constexpr uint32_t kChunks = kChunksOf;
  static constexpr uint32_t kKeys = kKeysOf;
  static constexpr uint32_t kTiles = kTilesOf;
  static constexpr uint32_t kChunk = kSlots / kKeys;
  static constexpr uint32_t kTileQueries = kColumns / kKeys;
  static constexpr uint32_t kPass = kTiles * kTileQueries;
  static constexpr uint32_t kQueryWords = kChunks * kChunk * kQuads;
  static constexpr uint32_t kStepPairs = 2 * kKeys;  // of keys
  static constexpr uint32_t kSteps = kBlockPositions / 2 / kStepPairs;
  static constexpr uint32_t kStepBytes = kChunks * kRabitqGroupWords * kWarpBytes;  // at most
  static constexpr uint32_t kStages = 4 / kChunks;  // steps that shared memory holds
  // Of a multiprocessor: more would lack registers.
  static constexpr uint32_t kThreadBlocks = kChunks * kTiles == 4 ? 2 : 5 - kChunks * kTiles;
  static constexpr uint32_t kStepsAtOnce = 2 / kTiles;  // whose values registers hold
  static_assert(kSteps % kStages == 0 && kSteps % kStepsAtOnce == 0);
};

/// Where a lane stands.
struct Place {
  uint32_t row;    // lane / 4: of an operand's rows row and row + 8, and of its columns
  uint32_t slot;   // lane % 4
  uint32_t block;  // whose score the lane writes, and of which it has a row of centres
};

__device__ __forceinline__ Place place_of_lane() {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t row = lane / 4;
  return {row, lane % 4, row % 2 * kLaneBlocks + row / 4 * 2 + row / 2 % 2};
}

/// Which of the keys side by side a lane has.
template <class Plan>
__device__ __forceinline__ uint32_t side_of(const Place& place) {
  return place.slot / Plan::kChunk;
}

/// The group of dimensions that a lane has in a chunk. Beyond the last one it is the last one, and
/// queries are zero there.
template <class Plan>
__device__ __forceinline__ uint32_t group_of(const ScanArgs& args, const Place& place,
                                             uint32_t chunk) {
  return min(chunk * Plan::kChunk + place.slot % Plan::kChunk, args.n_groups - 1);
}

/// The pair of keys that a lane has one of, of a step.
template <class Plan>
__device__ __forceinline__ uint32_t pair_of(const Place& place) {
  return side_of<Plan>(place) * 2 + place.row / 4;
}

/// A warp's place in shared memory: steps in turn, and of two tiles what stands behind the codes.
struct WarpRing {
  unsigned char* steps;  // [kStages][kStepBytes]
  unsigned char* rests;  // [2][rest_bytes]
};

/// What a warp reads now, and what comes next; null behind the last.
struct Reading {
  const std::byte* tile;
  const std::byte* next;
  uint32_t rest;  // of the two in shared memory, the tile's
};

/// The warp asks for a step of the tile, or of the next one: neighbouring bytes.
template <class Plan>
__device__ __forceinline__ void fetch(const ScanArgs& args, const WarpRing& ring,
                                      const Reading& reading, uint32_t step) {
  const uint32_t first = threadIdx.x % 32 * 16;
  const bool is_of_next = step >= Plan::kSteps;
  const std::byte* from = is_of_next ? reading.next : reading.tile;
  if (from != nullptr) {
    const uint32_t of_tile = is_of_next ? step - Plan::kSteps : step;
    const std::byte* codes = from + of_tile * args.step_bytes;
    unsigned char* to = ring.steps + step % Plan::kStages * Plan::kStepBytes;
#pragma unroll
    for (uint32_t i = 0; i < Plan::kStepBytes / kWarpBytes; ++i) {
      const uint32_t at = first + i * kWarpBytes;
      cp_async16_or_zero(to + at, codes + at, at < args.step_bytes);
    }
    if (of_tile == 0) {
      unsigned char* rest =
          ring.rests + (is_of_next ? 1 - reading.rest : reading.rest) * args.rest_bytes;
#pragma unroll 1
      for (uint32_t at = first; at < args.rest_bytes; at += kWarpBytes)
        cp_async16(rest + at, from + args.rest_at + at);
    }
  }
  cp_async_commit();
}

/// Until the warp has the oldest step that it asked for.
template <class Plan>
__device__ __forceinline__ void wait_for_step() {
  cp_async_wait<Plan::kStages - 2>();
  __syncwarp();
}

__device__ __forceinline__ uint32_t word_of(uint4 words, uint32_t i) {
  return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

/// A group's codes of one key: quad i is dimensions 4 i .. 4 i + 3, a byte each, kOddWeight times
/// where i is odd.
__device__ __forceinline__ void unpack(uint32_t a, uint32_t b, uint32_t c,
                                       uint32_t (&quads)[kQuads]) {
  constexpr uint32_t kEven = 0x07070707u, kOdd = 0x38383838u;
  constexpr uint32_t kTwoBits = 0x03030303u, kFourBits = 0x0f0f0f0fu;
  const uint32_t low = (a >> 6 & kTwoBits) | (b >> 4 & ~kTwoBits);
  const uint32_t rest = (low & kFourBits) | (c >> 2 & ~kFourBits);
  quads[0] = a & kEven;
  quads[1] = a & kOdd;
  quads[2] = b & kEven;
  quads[3] = b & kOdd;
  quads[4] = c & kEven;
  quads[5] = c & kOdd;
  quads[6] = rest & kEven;
  quads[7] = rest & kOdd;
}

/// Of a pass what a lane needs: codes as operands, and of two queries of each tile the rest.
template <class Plan>
struct LaneQueries {
  uint32_t codes[Plan::kTiles][Plan::kChunks][kQuads];  // of column `row`, the lane's groups
  float scale[Plan::kTiles][2];                         // of columns 2 slot and 2 slot + 1
  int32_t sum[Plan::kTiles][2];
};

/// Of a tile of queries, that of a column.
template <class Plan>
__device__ __forceinline__ uint32_t query_of_column(uint32_t column) {
  return column % Plan::kTileQueries;
}

template <class Plan>
__device__ __forceinline__ LaneQueries<Plan> lane_queries(const ScanQueries& from,
                                                          const Place& place, uint32_t first) {
  LaneQueries<Plan> of;
  const bool is_own_side = place.row / Plan::kTileQueries == side_of<Plan>(place);
#pragma unroll
  for (uint32_t n = 0; n < Plan::kTiles; ++n) {
    const uint32_t first_of_tile = first + n * Plan::kTileQueries;
#pragma unroll
    for (uint32_t c = 0; c < Plan::kChunks; ++c) {
      const uint32_t query = first_of_tile + query_of_column<Plan>(place.row);
      const uint32_t group = c * Plan::kChunk + place.slot % Plan::kChunk;
      const auto* codes =
          reinterpret_cast<const uint4*>(from.codes + query * Plan::kQueryWords + group * kQuads);
      const uint4 low = codes[0], high = codes[1];
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        of.codes[n][c][i] = is_own_side ? word_of(low, i) : 0;
        of.codes[n][c][4 + i] = is_own_side ? word_of(high, i) : 0;
      }
    }
#pragma unroll
    for (uint32_t e = 0; e < 2; ++e) {
      const uint32_t query = first_of_tile + query_of_column<Plan>(2 * place.slot + e);
      of.scale[n][e] = from.scales[query];
      of.sum[n][e] = from.sums[query];
    }
  }
  return of;
}

/// Values of a step: of the lane's key of each of its blocks, with its queries.
template <class Plan>
struct StepValues {
  float of[Plan::kTiles][kLaneBlocks][2];
};

template <class Plan>
__device__ __forceinline__ StepValues<Plan> step_values(
    const uint4 (&words)[Plan::kChunks][kRabitqGroupWords], uint32_t factors,
    const LaneQueries<Plan>& queries) {
  StepValues<Plan> values;
#pragma unroll
  for (uint32_t first = 0; first < kLaneBlocks; first += 2) {
    int32_t even[Plan::kTiles][4], odd[Plan::kTiles][4];
#pragma unroll
    for (uint32_t n = 0; n < Plan::kTiles; ++n)
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        even[n][i] = 0;
        odd[n][i] = kSumStart - kMiddle * queries.sum[n][i % 2];
      }
#pragma unroll
    for (uint32_t c = 0; c < Plan::kChunks; ++c) {
      uint32_t quads[2][kQuads];
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i)
        unpack(word_of(words[c][0], first + i), word_of(words[c][1], first + i),
               word_of(words[c][2], first + i), quads[i]);
#pragma unroll
      for (uint32_t quad = 0; quad < kQuads; ++quad) {
        const uint32_t rows[2] = {quads[0][quad], quads[1][quad]};
#pragma unroll
        for (uint32_t n = 0; n < Plan::kTiles; ++n)
          mma_u8s8(quad % 2 == 0 ? even[n] : odd[n], rows, queries.codes[n][c][quad]);
      }
    }
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const auto factor = static_cast<float>(static_cast<int8_t>(factors >> 8 * (first + i)));
      const float start = -kSumStartValue * factor;  // exact
#pragma unroll
      for (uint32_t n = 0; n < Plan::kTiles; ++n)
#pragma unroll
        for (uint32_t e = 0; e < 2; ++e) {
          const int32_t sum = even[n][2 * i + e] * kOddWeight + odd[n][2 * i + e];
          values.of[n][first + i][e] =
              fmaf(bits_to_float(static_cast<uint32_t>(sum)), factor, start);
        }
    }
  }
  return values;
}

/// Of the lane's blocks and queries: the largest value so far, in bits, and the sum of 2^(value -
/// top) of all of them.
template <class Plan>
struct Weights {
  float top[Plan::kTiles][kLaneBlocks][2];
  float sum[Plan::kTiles][kLaneBlocks][2];
};

/// Adds the values of some keys of each block. bits: of each unit of a value.
template <class Plan>
__device__ __forceinline__ void add_values(const StepValues<Plan> (&values)[Plan::kStepsAtOnce],
                                           const float (&bits)[Plan::kTiles][kLaneBlocks][2],
                                           Weights<Plan>& weights) {
#pragma unroll
  for (uint32_t n = 0; n < Plan::kTiles; ++n)
#pragma unroll
    for (uint32_t b = 0; b < kLaneBlocks; ++b)
#pragma unroll
      for (uint32_t e = 0; e < 2; ++e) {
        float& top = weights.top[n][b][e];
        const float top_before = top;
        float value[Plan::kStepsAtOnce];
#pragma unroll
        for (uint32_t i = 0; i < Plan::kStepsAtOnce; ++i) {
          value[i] = values[i].of[n][b][e] * bits[n][b][e];
          top = fmaxf(top, value[i]);
        }
        float sum = exp2_approx(value[0] - top);
#pragma unroll
        for (uint32_t i = 1; i < Plan::kStepsAtOnce; ++i) sum += exp2_approx(value[i] - top);
        weights.sum[n][b][e] = fmaf(weights.sum[n][b][e], exp2_approx(top_before - top), sum);
      }
}

/// Of two lanes that differ in `bit`, which have two sums each, one gets that of both firsts, one
/// that of both lasts, in `top` and `sum`.
__device__ __forceinline__ void join(float& top, float& sum, float last_top, float last_sum,
                                     int32_t bit) {
  const bool keeps_last = (threadIdx.x & static_cast<uint32_t>(bit)) != 0;
  const float other_top = __shfl_xor_sync(kFullMask, keeps_last ? top : last_top, bit);
  const float other_sum = __shfl_xor_sync(kFullMask, keeps_last ? sum : last_sum, bit);
  const float own_top = keeps_last ? last_top : top;
  const float own_sum = keeps_last ? last_sum : sum;
  top = fmaxf(own_top, other_top);
  sum = fmaf(own_sum, exp2_approx(own_top - top), other_sum * exp2_approx(other_top - top));
}

/// The first or the last half of kBlocks blocks stays with a lane.
template <class Plan, uint32_t kBlocks>
__device__ __forceinline__ void join_blocks(Weights<Plan>& weights, int32_t bit) {
#pragma unroll
  for (uint32_t n = 0; n < Plan::kTiles; ++n)
#pragma unroll
    for (uint32_t b = 0; b < kBlocks / 2; ++b)
#pragma unroll
      for (uint32_t e = 0; e < 2; ++e)
        join(weights.top[n][b][e], weights.sum[n][b][e], weights.top[n][kBlocks / 2 + b][e],
             weights.sum[n][kBlocks / 2 + b][e], bit);
}

/// sums[n][e]: products of the lane's queries with the centre of its block.
template <class Plan>
__device__ __forceinline__ void centre_products(const ScanArgs& args, const uint32_t* centres,
                                                const Place& place,
                                                const LaneQueries<Plan>& queries,
                                                int32_t (&sums)[Plan::kTiles][4]) {
#pragma unroll
  for (uint32_t n = 0; n < Plan::kTiles; ++n) {
    sums[n][0] = -static_cast<int32_t>(kRabitqCentreZero) * queries.sum[n][0];
    sums[n][1] = -static_cast<int32_t>(kRabitqCentreZero) * queries.sum[n][1];
    sums[n][2] = sums[n][3] = 0;
  }
#pragma unroll
  for (uint32_t c = 0; c < Plan::kChunks; ++c) {
    const uint32_t first_quad = group_of<Plan>(args, place, c) * kQuads;
#pragma unroll
    for (uint32_t quad = 0; quad < kQuads; ++quad) {
      const uint32_t rows[2] = {
          centres[(first_quad + quad) * kExtentBlocks + place.block] & 0x7f7f7f7fu, 0};
#pragma unroll
      for (uint32_t n = 0; n < Plan::kTiles; ++n)
        mma_u8s8(sums[n], rows, queries.codes[n][c][quad]);
    }
  }
}

/// Weighs all keys of a tile, whose first steps were asked for, as the next one's are in the end.
template <class Plan>
__device__ __forceinline__ Weights<Plan> weigh_keys(
    const ScanArgs& args, const Place& place, const WarpRing& ring, const Reading& reading,
    const LaneQueries<Plan>& queries, const float (&bits)[Plan::kTiles][kLaneBlocks][2]) {
  const unsigned char* factors = ring.rests + reading.rest * args.rest_bytes;
  const uint32_t pair = pair_of<Plan>(place);
  uint32_t codes_at[Plan::kChunks];  // in a step
#pragma unroll
  for (uint32_t c = 0; c < Plan::kChunks; ++c)
    codes_at[c] =
        (pair * args.n_groups + group_of<Plan>(args, place, c)) * kRabitqGroupWords * kLineBytes +
        place.row % 4 * kLaneBytes;
  Weights<Plan> weights;
#pragma unroll
  for (uint32_t n = 0; n < Plan::kTiles; ++n)
#pragma unroll
    for (uint32_t i = 0; i < 2 * kLaneBlocks; ++i) {
      weights.top[n][i / 2][i % 2] = kNoValue;
      weights.sum[n][i / 2][i % 2] = 0.0f;
    }
#pragma unroll 1
  for (uint32_t first = 0; first < Plan::kSteps; first += Plan::kStepsAtOnce) {
    StepValues<Plan> values[Plan::kStepsAtOnce];
#pragma unroll
    for (uint32_t i = 0; i < Plan::kStepsAtOnce; ++i) {
      const uint32_t step = first + i;
      wait_for_step<Plan>();
      const unsigned char* codes = ring.steps + step % Plan::kStages * Plan::kStepBytes;
      uint4 words[Plan::kChunks][kRabitqGroupWords];
#pragma unroll
      for (uint32_t c = 0; c < Plan::kChunks; ++c)
#pragma unroll
        for (uint32_t w = 0; w < kRabitqGroupWords; ++w)
          words[c][w] = *reinterpret_cast<const uint4*>(codes + codes_at[c] + w * kLineBytes);
      const uint32_t key = (step * Plan::kStepPairs + pair) * 2 + place.row / 2 % 2;
      const auto four = *reinterpret_cast<const uint32_t*>(factors + key * kExtentBlocks +
                                                           place.row % 2 * kLaneBlocks);
      fetch<Plan>(args, ring, reading, step + Plan::kStages - 1);
      values[i] = step_values<Plan>(words, four, queries);
    }
    add_values<Plan>(values, bits, weights);
  }
  return weights;
}

/// Scores of a tile for a pass of queries from `first_query` on.
template <class Plan>
__device__ __forceinline__ void scan_tile(const ScanArgs& args, const ScanQueries& from,
                                          uint32_t first_query, const WarpRing& ring,
                                          const Reading& reading, uint32_t tile_idx) {
  const Place place = place_of_lane();
  const auto queries = lane_queries<Plan>(from, place, first_query);
  wait_for_step<Plan>();  // what stands behind the codes came with it
  const unsigned char* rest = ring.rests + reading.rest * args.rest_bytes;
  int32_t centres[Plan::kTiles][4];
  centre_products<Plan>(args, reinterpret_cast<const uint32_t*>(rest + kExtentPositions), place,
                        queries, centres);
  const auto* steps = reinterpret_cast<const float*>(rest + args.rest_bytes - sizeof(RabitqSteps));
  const float centre_step = steps[place.block];
  float bits[Plan::kTiles][kLaneBlocks][2];
#pragma unroll
  for (uint32_t b = 0; b < kLaneBlocks; ++b) {
    const float factor_step = steps[kExtentBlocks + place.row % 2 * kLaneBlocks + b];
#pragma unroll
    for (uint32_t n = 0; n < Plan::kTiles; ++n)
#pragma unroll
      for (uint32_t e = 0; e < 2; ++e)
        bits[n][b][e] = queries.scale[n][e] * (kLog2E / kOddWeight) * factor_step;
  }
  auto weights = weigh_keys<Plan>(args, place, ring, reading, queries, bits);
  join_blocks<Plan, 4>(weights, 16);
  join_blocks<Plan, 2>(weights, 8);
  float* out = args.of.block_scores + uint64_t{tile_idx} * kExtentBlocks + place.block;
#pragma unroll
  for (uint32_t n = 0; n < Plan::kTiles; ++n) {
    if constexpr (Plan::kKeys == 2)
      join(weights.top[n][0][0], weights.sum[n][0][0], weights.top[n][0][1], weights.sum[n][0][1],
           2);
#pragma unroll
    for (uint32_t e = 0; e < 2 / Plan::kKeys; ++e) {
      const uint32_t own = Plan::kKeys == 2 ? side_of<Plan>(place) : e;
      const float centre = static_cast<float>(own == 0 ? centres[n][0] : centres[n][1]);
      const float scale = own == 0 ? queries.scale[n][0] : queries.scale[n][1];
      const float key = kLn2 * (weights.top[n][0][e] + log2f(weights.sum[n][0][e]));
      const float score = fmaf(scale * centre_step, centre, key);
      const bool is_finite = (float_to_bits(score) & kMagnitudeBits) < kInfinityBits;
      const uint32_t query =
          first_query + n * Plan::kTileQueries + query_of_column<Plan>(2 * place.slot + own);
      if (query < args.of.n_queries)
        out[(uint64_t{blockIdx.y} * args.of.n_queries + query) * args.of.score_stride] =
            is_finite ? score : bits_to_float(kInfinityBits);
    }
  }
}

template <class Plan>
__global__ void __launch_bounds__(kWarps * 32, Plan::kThreadBlocks)
    scan_codes_kernel(const ScanArgs args) {
  GPU_DYN_SHARED(shared);
  const uint32_t warp = threadIdx.x / 32;
  constexpr uint32_t kRingBytes = Plan::kStages * Plan::kStepBytes;
  unsigned char* rests = shared + kWarps * kRingBytes;
  const WarpRing ring{shared + warp * kRingBytes, rests + warp * 2 * args.rest_bytes};
  ScanQueries queries;
  queries.query_words = Plan::kQueryWords;
  queries.codes = reinterpret_cast<uint32_t*>(rests + kWarps * 2 * args.rest_bytes);
  queries.scales = reinterpret_cast<float*>(queries.codes + args.n_padded * Plan::kQueryWords);
  queries.sums = reinterpret_cast<int32_t*>(queries.scales + args.n_padded);
  float* row = reinterpret_cast<float*>(queries.sums + args.n_padded) + warp * args.of.head_dim;

  const uint32_t n_tiles = args.of.n_tiles;
  const uint32_t stride = gridDim.x * kWarps;
  const auto* tiles = args.of.tiles + blockIdx.y * args.of.tile_stride;
  uint32_t tile_idx = blockIdx.x * kWarps + warp;
  Reading reading{tile_idx < n_tiles ? tiles[tile_idx] : nullptr, nullptr, 0};
#pragma unroll
  for (uint32_t step = 0; step + 1 < Plan::kStages; ++step) fetch<Plan>(args, ring, reading, step);
  for (uint32_t query = warp; query < args.n_padded; query += kWarps)
    put_query(args, queries, query, row);
  __syncthreads();
  while (reading.tile != nullptr) {
    const uint32_t next_idx = tile_idx + stride;
    const std::byte* next_tile = next_idx < n_tiles ? tiles[next_idx] : nullptr;
#pragma unroll 1
    for (uint32_t first = 0; first < args.n_padded; first += Plan::kPass) {
      reading.next = first + Plan::kPass < args.n_padded ? reading.tile : next_tile;
      scan_tile<Plan>(args, queries, first, ring, reading, tile_idx);
      reading.rest = 1 - reading.rest;
    }
    tile_idx = next_idx;
    reading.tile = next_tile;
  }
}

/// Of all dimensions that a launch may have.
struct Signs {
  uint32_t is_negative[2][kSignWords] = {};
};
constexpr Signs rotation_signs() {
  Signs signs;
  for (uint32_t transform = 0; transform < 2; ++transform)
    for (uint32_t dim = 0; dim < kDeviceScanHeadDimMax; ++dim)
      if (rotation_sign(dim, transform) < 0)
        signs.is_negative[transform][dim / 32] |= 1u << dim % 32;
  return signs;
}
constexpr Signs kSigns = rotation_signs();

ScanArgs scan_args(const DeviceScanArgs& of) {
  ScanArgs args{};
  args.of = of;
  for (uint32_t i = 0; i < 2 * kSignWords; ++i)
    args.is_negative[i / kSignWords][i % kSignWords] =
        kSigns.is_negative[i / kSignWords][i % kSignWords];
  args.n_at_once = rotated_at_once(of.head_dim);
  args.norm = 1.0f / std::sqrt(static_cast<float>(args.n_at_once));
  args.n_groups = rabitq_groups(of.head_dim);
  args.rest_at = static_cast<uint32_t>(rabitq_codes_bytes(of.head_dim));
  args.rest_bytes = static_cast<uint32_t>(rabitq_tile_bytes(of.head_dim)) - args.rest_at;
  return args;
}

template <class Plan>
int launch_scan(DeviceStream* stream, ScanArgs args) {
  args.step_bytes = Plan::kStepPairs * args.n_groups * kRabitqGroupWords * kLineBytes;
  args.n_padded = (args.of.n_queries + Plan::kPass - 1) / Plan::kPass * Plan::kPass;
  const uint32_t of_warp =
      Plan::kStages * Plan::kStepBytes + 2 * args.rest_bytes + args.of.head_dim * 4;
  const uint32_t shared_bytes = kWarps * of_warp + args.n_padded * (Plan::kQueryWords + 2) * 4;
  const uint64_t n_tiles = uint64_t{args.of.n_tiles} * args.of.n_kv_heads;
  const uint64_t least = args.of.n_queries > 2 * kColumns ? kManyQueriesTiles : 1;
  const uint64_t warp_tiles = std::clamp<uint64_t>(n_tiles / kTileWarps, least, kWarpTilesMax);
  const uint64_t block_tiles = warp_tiles * kWarps;
  const auto n_blocks = static_cast<uint32_t>((args.of.n_tiles + block_tiles - 1) / block_tiles);
  return launch(scan_codes_kernel<Plan>, dim3(n_blocks, args.of.n_kv_heads), dim3(kWarps * 32),
                shared_bytes, stream->handle, args);
}

/// One tile of queries where that takes all of them.
template <uint32_t kChunks, uint32_t kKeys>
int launch_scan(DeviceStream* stream, const ScanArgs& args) {
  using OneTile = ScanPlan<kChunks, kKeys, 1>;
  if (args.of.n_queries <= OneTile::kPass) return launch_scan<OneTile>(stream, args);
  return launch_scan<ScanPlan<kChunks, kKeys, 2>>(stream, args);
}

}  // namespace

int scan_codes(DeviceStream* stream, const DeviceScanArgs& args) {
  STRATA_CHECK(
      args.head_dim > 0 && args.head_dim % 8 == 0 && args.head_dim <= kDeviceScanHeadDimMax,
      "head_dim=%u", args.head_dim);
  STRATA_CHECK(args.n_queries <= kDeviceFewRows * kDeviceGroupMax && args.n_kv_heads <= 65535,
               "n_queries=%u n_kv_heads=%u", args.n_queries, args.n_kv_heads);
  const uint64_t n_rows = uint64_t{args.n_kv_heads} * args.n_queries;
  STRATA_CHECK(n_rows <= 1 || args.score_stride >= uint64_t{args.n_tiles} * kExtentBlocks,
               "score_stride=%llu n_tiles=%u", static_cast<unsigned long long>(args.score_stride),
               args.n_tiles);
  STRATA_CHECK(args.n_kv_heads <= 1 || args.tile_stride >= args.n_tiles,
               "tile_stride=%llu n_tiles=%u", static_cast<unsigned long long>(args.tile_stride),
               args.n_tiles);
  if (n_rows == 0 || args.n_tiles == 0) return 0;
  const ScanArgs launched = scan_args(args);
  if (launched.n_groups <= kSlots / 2) return launch_scan<1, 2>(stream, launched);
  if (launched.n_groups <= kSlots) return launch_scan<1, 1>(stream, launched);
  return launch_scan<2, 1>(stream, launched);
}

}  // namespace strata::gpu_attn
