// gpu_attn/scan_codes.cu - scores of blocks by the rotated codes of their keys.
//
// Formula  queries by base/key_rotation.h, to bytes as cpu_attn/index_rabitq_encode.inc rounds them,
//          the same bits; value = factor * (codes . q - 3.5 * sum of q) in integers, exact in f32
//          but for the last product; score of a block = scale (factor_step max + centre_step
//          (centre - 64) . q) + ln sum exp(scale factor_step (value - max)) over its 32 keys
// Shapes   base/device_kernels.h, DeviceScanArgs; tiles as base/index_kernels.h lays them out
// Threads  a thread block: one KV head, whose queries its warps turn first, a warp each; then a warp
//          per tile. Eight queries are the columns of a product of bytes in the tensor cores, and
//          rows are a key of a block each. The layout needs no exchange between lanes: lane l reads
//          the words of group l % 4 (and 4 more) of one key of four neighbouring blocks, 16 bytes
//          each, which are four rows of an operand once they are unpacked; its rows' products come
//          back to it, of queries 2 (l % 4) and the next. So a lane has four blocks, of eight keys
//          each, and keeps the maximum and the sum of each up to date; four lanes have a block
//          together and join at the tile's end. Centres go the same way, a row per block
// Loads    kAhead steps of 1,536 bytes (head_dim 128) are under way before a warp needs them, the
//          first of them before the queries are turned; tiles are read once for 16 queries
// Bytes    scan_codes_bytes(args), operations scan_codes_ops(args): gpu_attn/scan_bytes.h. At group 4
//          and head_dim 128 a step of a warp is 16 products, 68 operations to unpack, 100 for values
//          and weights: by count half of what an H200 has in the time that its memory takes (Turing's
//          dp4a in place of products: 196 and 68)
// Numbers  exp2 by the card's approximation (2 ulp), 32 terms added in f32; sums of lanes as a tree
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/index_kernels.h"
#include "base/key_rotation.h"
#include "gpu_attn/device_stream.cuh"
#include "gpu_attn/gpu.cuh"
#include "gpu_attn/kernels.h"
#include "gpu_attn/row_quant.cuh"
#include "gpu_attn/scan_bytes.h"

namespace strata::gpu_attn {
namespace {

constexpr uint32_t kWarps = 4;
constexpr uint32_t kColumns = 8;  // queries of a product
constexpr uint32_t kSlots = 4;    // groups of dimensions of a product, one for each lane of a row
constexpr uint32_t kLaneBlocks = 4;  // whose codes a lane holds
constexpr uint32_t kQuads = kRabitqGroup / 4;
constexpr uint32_t kLineBytes = 2 * kExtentBlocks * sizeof(uint32_t);  // a word of a pair of keys
constexpr uint32_t kStepPairs = 2;                                     // that a warp reads at once
constexpr uint32_t kSteps = kBlockPositions / 2 / kStepPairs;
template <uint32_t kChunks>
constexpr uint32_t kAhead = 2 / kChunks;  // steps that are under way
constexpr float kMiddle = (kRabitqLevels - 1) / 2.0f;
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr uint32_t kInfinityBits = 0x7f800000u;
constexpr float kNoValue = -1e30f;  // below every value
// Sums of products begin at the bits of 1.5 * 2^23, so that those of their end are a float's. A sum
// is at most 256 * 7 * 127 < 2^22.
constexpr int32_t kSumStart = 0x4B400000;
constexpr float kSumStartValue = 0x1.8p23f;
constexpr uint32_t kTileWarps = 2048;  // that the tiles of a launch are spread over
// Two at least where queries take several passes: turning them, once for each thread block, would be
// a third of the work.
constexpr uint32_t kWarpTilesMax = 8;

constexpr uint32_t kSignWords = kDeviceScanHeadDimMax / 32;

struct ScanArgs {
  DeviceScanArgs of;
  uint32_t is_negative[2][kSignWords];  // the signs of both transforms, a bit per dimension
  float norm;                           // of a transform
  uint32_t n_at_once;                   // dimensions of a transform
  uint32_t n_groups;
  uint32_t n_padded;                          // queries
  uint32_t factors_at, centres_at, steps_at;  // in a tile
};

/// What a thread block knows of its queries, in dynamic shared memory: codes [n_padded][kChunks]
/// [kSlots][kQuads] u32, scales and sums [n_padded]. n_padded is a multiple of what a pass takes;
/// queries that are none are zeros.
struct Queries {
  uint32_t* codes;
  float* scales;
  int32_t* sums;
};

template <uint32_t kChunks>
constexpr uint32_t kQueryWords = kChunks* kSlots* kQuads;

/// The first (0) or the second transform of row[first_dim ..]. The whole warp calls it.
__device__ __forceinline__ void transform(const ScanArgs& args, float* row, uint32_t first_dim,
                                          uint32_t which) {
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t d = first_dim + lane; d < first_dim + args.n_at_once; d += 32) {
    const bool is_negative = (args.is_negative[which][d / 32] >> d % 32 & 1) != 0;
    row[d] *= is_negative ? -args.norm : args.norm;
  }
  __syncwarp();
  for (uint32_t half = 1; half < args.n_at_once; half *= 2) {
    for (uint32_t i = lane; i < args.n_at_once / 2; i += 32) {
      float* a = row + first_dim + 2 * i - i % half;
      const float x = a[0], y = a[half];
      a[0] = x + y;
      a[half] = x - y;
    }
    __syncwarp();
  }
}

/// Turns a query and rounds it. The whole warp calls it; `row` is its own.
template <uint32_t kChunks>
__device__ __forceinline__ void put_query(const ScanArgs& args, const Queries& to, uint32_t query,
                                          float* row) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t head_dim = args.of.head_dim;
  const float* q = args.of.q + (uint64_t{blockIdx.y} * args.of.n_queries + query) * head_dim;
  for (uint32_t d = lane; d < head_dim; d += 32) row[d] = query < args.of.n_queries ? q[d] : 0.0f;
  __syncwarp();
  transform(args, row, 0, 0);
  if (args.n_at_once < head_dim) transform(args, row, head_dim - args.n_at_once, 1);
  // Bits of |x| order as integers do, infinities and NaN last.
  uint32_t largest_bits = 0;
  for (uint32_t d = lane; d < head_dim; d += 32)
    largest_bits = max(largest_bits, float_to_bits(row[d]) & kMagnitudeBits);
  largest_bits = __reduce_max_sync(kFullMask, largest_bits);
  const float largest = bits_to_float(largest_bits);
  const bool is_finite = largest_bits < kInfinityBits;
  const bool has_codes = is_finite && largest >= kRotatedLeast;
  const float per_one = has_codes ? kQueryCodeMax / largest : 0.0f;
  auto* codes = reinterpret_cast<int8_t*>(to.codes + query * kQueryWords<kChunks>);
  int32_t sum = 0;
  for (uint32_t d = lane; d < kQueryWords<kChunks> * 4; d += 32) {
    int32_t code = 0;
    if (d < head_dim && has_codes) {
      const float x = mul_rounded(row[d], per_one);
      code = static_cast<int32_t>(x + (x < 0 ? -0.5f : 0.5f));
    }
    codes[d] = static_cast<int8_t>(code);
    sum += code;
  }
  sum = __reduce_add_sync(kFullMask, sum);
  if (lane != 0) return;
  to.scales[query] = !is_finite  ? bits_to_float(kMagnitudeBits)  // NaN
                     : has_codes ? largest / kQueryCodeMax
                                 : 0.0f;
  to.sums[query] = sum;
}

/// Where a lane stands.
struct Place {
  uint32_t row;    // lane / 4: of an operand's rows row and row + 8
  uint32_t slot;   // lane % 4: of the groups that a product sums over
  uint32_t block;  // whose score the lane writes, and of which it has a row of centres
};

__device__ __forceinline__ Place place_of_lane() {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t row = lane / 4;
  return {row, lane % 4, row % 2 * kLaneBlocks + row / 4 * 2 + row / 2 % 2};
}

/// The group of dimensions that a lane has in a chunk. Beyond the last one it is the last one, and
/// queries are zero there.
__device__ __forceinline__ uint32_t group_of(const ScanArgs& args, const Place& place,
                                             uint32_t chunk) {
  return min(chunk * kSlots + place.slot, args.n_groups - 1);
}

__device__ __forceinline__ uint32_t word_of(uint4 words, uint32_t i) {
  return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

/// A lane's part of kStepPairs pairs of keys: key row / 2 % 2 of pair row / 4, blocks from
/// row % 2 * kLaneBlocks on.
template <uint32_t kChunks>
struct Step {
  uint4 words[kChunks][kRabitqGroupWords];
  uint32_t factors;  // of the four blocks
};

template <uint32_t kChunks>
__device__ __forceinline__ Step<kChunks> load_step(const ScanArgs& args, const std::byte* tile,
                                                   const Place& place, uint32_t step) {
  Step<kChunks> of;
  const uint32_t pair = step * kStepPairs + place.row / 4;
#pragma unroll
  for (uint32_t c = 0; c < kChunks; ++c) {
    const uint32_t line = (pair * args.n_groups + group_of(args, place, c)) * kRabitqGroupWords;
#pragma unroll
    for (uint32_t w = 0; w < kRabitqGroupWords; ++w)
      of.words[c][w] = load16_once(tile + (line + w) * kLineBytes + place.row % 4 * 16);
  }
  of.factors = *reinterpret_cast<const uint32_t*>(tile + args.factors_at +
                                                  (step * 8 + place.row) * kLaneBlocks);
  return of;
}

/// A group's codes of one key: quad i is dimensions 4 i .. 4 i + 3, a byte each.
__device__ __forceinline__ void unpack(uint32_t a, uint32_t b, uint32_t c,
                                       uint32_t (&quads)[kQuads]) {
  constexpr uint32_t kCode = 0x07070707u, kTwoBits = 0x03030303u, kFourBits = 0x0f0f0f0fu;
  const uint32_t low = (a >> 6 & kTwoBits) | (b >> 4 & ~kTwoBits);
  const uint32_t rest = (low & kFourBits) | (c >> 2 & ~kFourBits);
  quads[0] = a & kCode;
  quads[1] = a >> 3 & kCode;
  quads[2] = b & kCode;
  quads[3] = b >> 3 & kCode;
  quads[4] = c & kCode;
  quads[5] = c >> 3 & kCode;
  quads[6] = rest & kCode;
  quads[7] = rest >> 3 & kCode;
}

/// Of kTiles * kColumns queries what a lane needs: their codes as operands, and of two queries of
/// each tile the rest.
template <uint32_t kChunks, uint32_t kTiles>
struct LaneQueries {
  uint32_t codes[kTiles][kChunks][kQuads];  // of query `row` of the tile, group `slot`
  float scale[kTiles][2];                   // of queries 2 slot and 2 slot + 1
  float middle[kTiles][2];
  int32_t sum[kTiles][2];
};

template <uint32_t kChunks, uint32_t kTiles>
__device__ __forceinline__ LaneQueries<kChunks, kTiles> lane_queries(const Queries& from,
                                                                     const Place& place,
                                                                     uint32_t first) {
  LaneQueries<kChunks, kTiles> of;
#pragma unroll
  for (uint32_t n = 0; n < kTiles; ++n) {
    const uint32_t query = first + n * kColumns;
#pragma unroll
    for (uint32_t c = 0; c < kChunks; ++c) {
      const auto* codes =
          reinterpret_cast<const uint4*>(from.codes + (query + place.row) * kQueryWords<kChunks> +
                                         (c * kSlots + place.slot) * kQuads);
      const uint4 low = codes[0], high = codes[1];
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        of.codes[n][c][i] = word_of(low, i);
        of.codes[n][c][4 + i] = word_of(high, i);
      }
    }
#pragma unroll
    for (uint32_t e = 0; e < 2; ++e) {
      of.scale[n][e] = from.scales[query + 2 * place.slot + e];
      of.sum[n][e] = from.sums[query + 2 * place.slot + e];
      of.middle[n][e] = kMiddle * static_cast<float>(of.sum[n][e]);
    }
  }
  return of;
}

/// Of four blocks and the lane's queries: the largest value so far, and the sum of 2^(bits * (value
/// - top)) of all of them.
template <uint32_t kTiles>
struct Weights {
  float top[kTiles][kLaneBlocks][2];
  float sum[kTiles][kLaneBlocks][2];
  float bits[kTiles][kLaneBlocks][2];
};

/// Adds `sum` relative to `value`.
__device__ __forceinline__ void add_weight(float& top, float& sum, float bits, float value,
                                           float other) {
  const float up = value - top;
  const float share = exp2_approx(-fabsf(up) * bits);
  const bool is_above = up > 0;
  top = fmaxf(top, value);
  sum = fmaf(is_above ? sum : other, share, is_above ? other : sum);
}

template <uint32_t kChunks, uint32_t kTiles>
__device__ __forceinline__ void add_step(const Step<kChunks>& step,
                                         const LaneQueries<kChunks, kTiles>& queries,
                                         Weights<kTiles>& weights) {
#pragma unroll
  for (uint32_t half = 0; half < kLaneBlocks / 2; ++half) {
    int32_t sums[kTiles][4];
#pragma unroll
    for (uint32_t n = 0; n < kTiles; ++n)
      sums[n][0] = sums[n][1] = sums[n][2] = sums[n][3] = kSumStart;
#pragma unroll
    for (uint32_t c = 0; c < kChunks; ++c) {
      uint32_t quads[2][kQuads];
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i)
        unpack(word_of(step.words[c][0], 2 * half + i), word_of(step.words[c][1], 2 * half + i),
               word_of(step.words[c][2], 2 * half + i), quads[i]);
#pragma unroll
      for (uint32_t quad = 0; quad < kQuads; ++quad) {
        const uint32_t rows[2] = {quads[0][quad], quads[1][quad]};
#pragma unroll
        for (uint32_t n = 0; n < kTiles; ++n) mma_u8s8(sums[n], rows, queries.codes[n][c][quad]);
      }
    }
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t block = 2 * half + i;
      const auto factor = static_cast<float>(static_cast<int8_t>(step.factors >> 8 * block));
#pragma unroll
      for (uint32_t n = 0; n < kTiles; ++n)
#pragma unroll
        for (uint32_t e = 0; e < 2; ++e) {
          const float dot =
              bits_to_float(static_cast<uint32_t>(sums[n][2 * i + e])) - kSumStartValue;
          add_weight(weights.top[n][block][e], weights.sum[n][block][e], weights.bits[n][block][e],
                     factor * (dot - queries.middle[n][e]), 1.0f);
        }
    }
  }
}

/// Joins the lanes that differ in `bit`: each keeps the first or the last half of kBlocks blocks.
template <uint32_t kBlocks, uint32_t kBit, uint32_t kTiles>
__device__ __forceinline__ void join(Weights<kTiles>& weights) {
  constexpr uint32_t kKept = kBlocks / 2;
  const bool keeps_last = (threadIdx.x & kBit) != 0;
#pragma unroll
  for (uint32_t n = 0; n < kTiles; ++n)
#pragma unroll
    for (uint32_t b = 0; b < kKept; ++b)
#pragma unroll
      for (uint32_t e = 0; e < 2; ++e) {
        auto& top = weights.top[n];
        auto& sum = weights.sum[n];
        auto& bits = weights.bits[n];
        const float other_top =
            __shfl_xor_sync(kFullMask, keeps_last ? top[b][e] : top[kKept + b][e], kBit);
        const float other_sum =
            __shfl_xor_sync(kFullMask, keeps_last ? sum[b][e] : sum[kKept + b][e], kBit);
        top[b][e] = keeps_last ? top[kKept + b][e] : top[b][e];
        sum[b][e] = keeps_last ? sum[kKept + b][e] : sum[b][e];
        bits[b][e] = keeps_last ? bits[kKept + b][e] : bits[b][e];
        add_weight(top[b][e], sum[b][e], bits[b][e], other_top, other_sum);
      }
}

/// sums[n][e]: products of query e of each tile with the centre of the lane's block.
template <uint32_t kChunks, uint32_t kTiles>
__device__ __forceinline__ void centre_products(const ScanArgs& args, const std::byte* tile,
                                                const Place& place,
                                                const LaneQueries<kChunks, kTiles>& queries,
                                                int32_t (&sums)[kTiles][4]) {
#pragma unroll
  for (uint32_t n = 0; n < kTiles; ++n) {
    sums[n][0] = -static_cast<int32_t>(kRabitqCentreZero) * queries.sum[n][0];
    sums[n][1] = -static_cast<int32_t>(kRabitqCentreZero) * queries.sum[n][1];
    sums[n][2] = sums[n][3] = 0;
  }
  const auto* centres = reinterpret_cast<const uint32_t*>(tile + args.centres_at) + place.block;
#pragma unroll
  for (uint32_t c = 0; c < kChunks; ++c) {
    const uint32_t first = group_of(args, place, c) * kQuads * kExtentBlocks;
#pragma unroll
    for (uint32_t quad = 0; quad < kQuads; ++quad) {
      const uint32_t rows[2] = {centres[first + quad * kExtentBlocks] & 0x7f7f7f7fu, 0};
#pragma unroll
      for (uint32_t n = 0; n < kTiles; ++n) mma_u8s8(sums[n], rows, queries.codes[n][c][quad]);
    }
  }
}

/// Scores of a tile for kTiles * kColumns queries from `first` on. `ahead` holds the tile's first
/// steps, and in the end those of `next`, which may be null.
template <uint32_t kChunks, uint32_t kTiles>
__device__ __forceinline__ void scan_tile(const ScanArgs& args, const Queries& from, uint32_t first,
                                          const std::byte* tile, const std::byte* next,
                                          uint32_t tile_idx,
                                          Step<kChunks> (&ahead)[kAhead<kChunks>]) {
  const Place place = place_of_lane();
  const auto queries = lane_queries<kChunks, kTiles>(from, place, first);
  int32_t centres[kTiles][4];
  centre_products(args, tile, place, queries, centres);
  const auto* steps = reinterpret_cast<const float*>(tile + args.steps_at);
  const float centre_step = steps[place.block];
  const float factor_step = steps[kExtentBlocks + place.block];
  const float4 factor_steps = load4(steps + kExtentBlocks, place.row % 2);
  Weights<kTiles> weights;
#pragma unroll
  for (uint32_t n = 0; n < kTiles; ++n)
#pragma unroll
    for (uint32_t e = 0; e < 2; ++e) {
      const float bits = queries.scale[n][e] * kLog2E;
      weights.bits[n][0][e] = fmaxf(bits * factor_steps.x, 0.0f);
      weights.bits[n][1][e] = fmaxf(bits * factor_steps.y, 0.0f);
      weights.bits[n][2][e] = fmaxf(bits * factor_steps.z, 0.0f);
      weights.bits[n][3][e] = fmaxf(bits * factor_steps.w, 0.0f);
#pragma unroll
      for (uint32_t b = 0; b < kLaneBlocks; ++b) {
        weights.top[n][b][e] = kNoValue;
        weights.sum[n][b][e] = 0.0f;
      }
    }
#pragma unroll 1
  for (uint32_t step = 0; step < kSteps; step += kAhead<kChunks>) {
    const bool is_of_next = step + kAhead<kChunks> >= kSteps;
    const std::byte* fetched = is_of_next ? next : tile;
#pragma unroll
    for (uint32_t i = 0; i < kAhead<kChunks>; ++i) {
      const Step<kChunks> now = ahead[i];
      if (fetched != nullptr)
        ahead[i] =
            load_step<kChunks>(args, fetched, place, is_of_next ? i : step + kAhead<kChunks> + i);
      add_step(now, queries, weights);
    }
  }
  join<4, 16>(weights);
  join<2, 8>(weights);
  float* out = args.of.block_scores + uint64_t{tile_idx} * kExtentBlocks + place.block;
#pragma unroll
  for (uint32_t n = 0; n < kTiles; ++n)
#pragma unroll
    for (uint32_t e = 0; e < 2; ++e) {
      const float value =
          fmaf(factor_step, weights.top[n][0][e], centre_step * static_cast<float>(centres[n][e]));
      const float score = fmaf(queries.scale[n][e], value, kLn2 * log2f(weights.sum[n][0][e]));
      const bool is_finite = (float_to_bits(score) & kMagnitudeBits) < kInfinityBits;
      const uint32_t query = first + n * kColumns + 2 * place.slot + e;
      if (query < args.of.n_queries)
        out[(uint64_t{blockIdx.y} * args.of.n_queries + query) * args.of.score_stride] =
            is_finite ? score : bits_to_float(kInfinityBits);
    }
}

template <uint32_t kChunks, uint32_t kTiles>
__global__ void __launch_bounds__(kWarps * 32) scan_codes_kernel(const ScanArgs args) {
  GPU_SHARED(float, rows, [kWarps][kDeviceScanHeadDimMax]);
  GPU_DYN_SHARED(shared);
  constexpr uint32_t kPass = kTiles * kColumns;
  const uint32_t n_padded = args.n_padded;
  Queries queries;
  queries.codes = reinterpret_cast<uint32_t*>(shared);
  queries.scales = reinterpret_cast<float*>(queries.codes + n_padded * kQueryWords<kChunks>);
  queries.sums = reinterpret_cast<int32_t*>(queries.scales + n_padded);
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t stride = gridDim.x * kWarps;
  const auto* tiles = args.of.tiles + blockIdx.y * args.of.tile_stride;
  uint32_t tile_idx = blockIdx.x * kWarps + warp;
  const std::byte* tile = tile_idx < args.of.n_tiles ? tiles[tile_idx] : nullptr;
  Step<kChunks> ahead[kAhead<kChunks>] = {};
#pragma unroll
  for (uint32_t i = 0; i < kAhead<kChunks>; ++i)
    if (tile != nullptr) ahead[i] = load_step<kChunks>(args, tile, place_of_lane(), i);
  for (uint32_t query = warp; query < n_padded; query += kWarps)
    put_query<kChunks>(args, queries, query, rows[warp]);
  __syncthreads();
  while (tile != nullptr) {
    const uint32_t next_idx = tile_idx + stride;
    const std::byte* next = next_idx < args.of.n_tiles ? tiles[next_idx] : nullptr;
#pragma unroll 1
    for (uint32_t first = 0; first < n_padded; first += kPass)
      scan_tile<kChunks, kTiles>(args, queries, first, tile, first + kPass < n_padded ? tile : next,
                                 tile_idx, ahead);
    tile_idx = next_idx;
    tile = next;
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

template <uint32_t kChunks, uint32_t kTiles>
int launch_scan(DeviceStream* stream, ScanArgs args) {
  constexpr uint32_t kPass = kTiles * kColumns;
  args.n_padded = (args.of.n_queries + kPass - 1) / kPass * kPass;
  const uint32_t shared_bytes =
      args.n_padded * (kQueryWords<kChunks> * sizeof(uint32_t) + sizeof(float) + sizeof(int32_t));
  const uint64_t n_tiles = uint64_t{args.of.n_tiles} * args.of.n_kv_heads;
  const uint64_t least = args.n_padded > kPass ? 2 : 1;
  const uint64_t warp_tiles = std::clamp<uint64_t>(n_tiles / kTileWarps, least, kWarpTilesMax);
  const uint64_t block_tiles = warp_tiles * kWarps;
  const auto n_blocks = static_cast<uint32_t>((args.of.n_tiles + block_tiles - 1) / block_tiles);
  return launch(scan_codes_kernel<kChunks, kTiles>, dim3(n_blocks, args.of.n_kv_heads),
                dim3(kWarps * 32), shared_bytes, stream->handle, args);
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
  ScanArgs launched{};
  launched.of = args;
  for (uint32_t transform = 0; transform < 2; ++transform)
    for (uint32_t i = 0; i < kSignWords; ++i)
      launched.is_negative[transform][i] = kSigns.is_negative[transform][i];
  launched.n_at_once = rotated_at_once(args.head_dim);
  launched.norm = 1.0f / std::sqrt(static_cast<float>(launched.n_at_once));
  launched.n_groups = rabitq_groups(args.head_dim);
  launched.factors_at = static_cast<uint32_t>(rabitq_codes_bytes(args.head_dim));
  launched.centres_at = launched.factors_at + kExtentPositions;
  launched.steps_at = static_cast<uint32_t>(rabitq_tile_bytes(args.head_dim) - sizeof(RabitqSteps));
  const bool is_wide = launched.n_groups > kSlots;
  if (args.n_queries <= kColumns)
    return is_wide ? launch_scan<2, 1>(stream, launched) : launch_scan<1, 1>(stream, launched);
  return is_wide ? launch_scan<2, 2>(stream, launched) : launch_scan<1, 2>(stream, launched);
}

}  // namespace strata::gpu_attn
