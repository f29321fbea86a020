// gpu_attn/linear_tile.cuh - a warp's part of one quantised panel times two to eight rows of
// activations, by the integer tensor cores.
//
// Why these: eight rows of dot products in registers are 32 sums and 32 dwords of codes a thread
// (nvcc spilled at 128 registers), and on sm_90 four-byte products alone would take four fifths of
// the time that the bytes take. One mma.m16n8k16 is a panel's 16 outputs times 8 rows times a group
// of 16 inputs, and its operand is a plane vector as it lies: the dword of output and quad. Outputs
// 2g and 2g + 1 stand at the rows g and g + 8 of the tile, so that a lane's dwords are neighbours.
//
// Each warp stages for its own use what 8 chunks need: the rows' codes in the order that ldmatrix
// reads (a row's codes cost 8 cache lines a chunk otherwise), their scales, and the weights'
// scales, each of which one lane decodes for all.
#pragma once

#include "gpu_attn/linear_few_rows.cuh"

namespace strata::gpu_attn {
namespace {

constexpr uint32_t kTileRows = 8;
constexpr uint32_t kStageInputs = kWarpChunks * kChunkInputs;
/// Bytes between rows: 16 more than they need, so that eight rows lie in different banks.
constexpr uint32_t kStageRowBytes = kStageInputs + 16;

/// Of a pair of rows 2t, 2t + 1 and one group.
struct alignas(16) RowTerms {
  float dx[2];
  int32_t b[2];  // first value of the integer sum; or dx times minus the sum of codes, as a float
};

struct alignas(16) TileStage {
  union {
    int8_t q[kTileRows][kStageRowBytes];
    float sums[kTileRows * kPanelRows];  // at the end
  };
  RowTerms terms[2][kWarpChunks][kTileRows / 2];  // [group of the chunk][chunk][pair of rows]
  float scales[2][kWarpChunks][kPanelRows];
  float minima[2][kWarpChunks][kPanelRows];
};

__device__ __forceinline__ void store4(float* to, const float (&values)[kLaneRows], bool is_real) {
  *reinterpret_cast<float4*>(to) =
      is_real ? make_float4(values[0], values[1], values[2], values[3]) : make_float4(0, 0, 0, 0);
}

/// The codes of chunks [first, first + n) of every row; zeros behind them and where there is no
/// row.
__device__ __forceinline__ void stage_codes(const FewRowsArgs& args, uint32_t first, uint32_t n,
                                            uint32_t lane, TileStage& stage) {
  constexpr uint32_t kPieces = kStageInputs / 16;
  const uint32_t piece = lane % kPieces;
#pragma unroll
  for (uint32_t i = 0; i < kTileRows * kPieces / 32; ++i) {
    const uint32_t row = i * (32 / kPieces) + lane / kPieces;
    int4 codes = make_int4(0, 0, 0, 0);
    if (row < args.n_rows && piece / 2 < n)
      codes = *reinterpret_cast<const int4*>(args.quant.q + uint64_t{row} * args.n_in +
                                             uint64_t{first} * kChunkInputs + piece * 16);
    *reinterpret_cast<int4*>(&stage.q[row][piece * 16]) = codes;
  }
}

/// What rows 2 pair, 2 pair + 1 bring to chunk `chunk` beside their codes.
template <TensorType kType>
__device__ __forceinline__ void stage_terms(const FewRowsArgs& args, uint32_t chunk, uint32_t place,
                                            uint32_t pair, TileStage& stage) {
  constexpr uint32_t kGroups = ChunkScales<kType>::kGroups;
  constexpr PanelLayout kLayout = kLayoutOf<kType>;
  RowTerms terms[kGroups];
#pragma unroll
  for (uint32_t r = 0; r < 2; ++r) {
    const bool is_real = 2 * pair + r < args.n_rows;
    const uint64_t at = uint64_t{2 * pair + r} * (args.n_in / kActGroup) + chunk;
    const float dx = is_real ? args.quant.scales[at] : 0.0f;
    uint2 halves = make_uint2(0, 0);
    if (is_real) halves = reinterpret_cast<const uint2*>(args.quant.neg_sums)[at];
#pragma unroll
    for (uint32_t group = 0; group < kGroups; ++group) {
      const auto neg_sum = static_cast<int32_t>(kGroups == 1 ? halves.x + halves.y
                                                : group == 0 ? halves.x
                                                             : halves.y);
      terms[group].dx[r] = dx;
      terms[group].b[r] =
          kLayout.has_min ? static_cast<int32_t>(float_to_bits(dx * static_cast<float>(neg_sum)))
                          : kSumStart + neg_sum * (1 << kLayout.zero_shift);
    }
  }
#pragma unroll
  for (uint32_t group = 0; group < kGroups; ++group) stage.terms[group][place][pair] = terms[group];
}

/// Zeros where the chunk is not real.
template <TensorType kType>
__device__ __forceinline__ void stage_scales(const ChunkScales<kType>& scales, uint32_t place,
                                             uint32_t quarter, bool is_real, TileStage& stage) {
#pragma unroll
  for (uint32_t group = 0; group < ChunkScales<kType>::kGroups; ++group) {
    float values[kLaneRows];
    scales.scales(group, values);
    store4(&stage.scales[group][place][quarter * kLaneRows], values, is_real);
    if constexpr (kLayoutOf<kType>.has_min) {
      scales.minima(group, values);
      store4(&stage.minima[group][place][quarter * kLaneRows], values, is_real);
    }
  }
}

/// A lane's operands of one chunk: quads t and t + 4 of outputs 2g and 2g + 1.
template <TensorType kType>
struct TileCodes {
  static constexpr PanelLayout kLayout = kLayoutOf<kType>;
  static constexpr uint32_t kLow = kLayout.low_bits;
  static constexpr uint32_t kHigh = kLayout.high_bits;
  static constexpr uint32_t kLowLoads = kLow == 4 ? 1 : 2;
  static constexpr uint32_t kLoads = kLowLoads + kHigh;
  static constexpr uint32_t kChunkBytes = kLayout.chunk_bytes();

  uint2 vectors[kLoads];

  __device__ __forceinline__ void load(const uint8_t* codes, uint32_t chunk, uint32_t lane) {
    const uint8_t* at = codes + uint64_t{chunk} * kChunkBytes + lane / 4 * 8;
    const uint32_t t = lane % 4;
    if constexpr (kLow == 2) {
      vectors[0] = load8_once(at);
      vectors[1] = load8_once(at + 64);
    } else {
      vectors[0] = load8_once(at + t * 64);
      if constexpr (kLow == 8) vectors[1] = load8_once(at + t * 64 + 256);
    }
    if constexpr (kHigh >= 1) vectors[kLowLoads] = load8_once(at + kLow * 64);
    if constexpr (kHigh == 2) vectors[kLowLoads + 1] = load8_once(at + (kLow + 1) * 64);
  }

  /// The operands of the quads t, then of the quads t + 4.
  __device__ __forceinline__ void unpack(uint32_t t, uint32_t (&first)[2],
                                         uint32_t (&last)[2]) const {
#pragma unroll
    for (uint32_t e = 0; e < 2; ++e) {
      const uint32_t low = e == 0 ? vectors[0].x : vectors[0].y;
      if constexpr (kLayout.is_table) {
        look_up_codes(low, first[e], last[e]);
      } else if constexpr (kLow == 4) {
        first[e] = low & 0x0f * kEachByte;
        last[e] = low >> 4 & 0x0f * kEachByte;
      } else {
        const uint32_t next = e == 0 ? vectors[1].x : vectors[1].y;
        first[e] = kLow == 8 ? low : low >> 2 * t & 0x03 * kEachByte;
        last[e] = kLow == 8 ? next : next >> 2 * t & 0x03 * kEachByte;
      }
      if constexpr (kHigh == 1) {
        const uint32_t bits = (e == 0 ? vectors[kLowLoads].x : vectors[kLowLoads].y) >> t;
        first[e] |= (bits & kEachByte) << kLow;
        last[e] |= (bits >> 4 & kEachByte) << kLow;
      } else if constexpr (kHigh == 2) {
        const uint2 a = vectors[kLowLoads], b = vectors[kLowLoads + 1];
        first[e] |= ((e == 0 ? a.x : a.y) >> 2 * t & 0x03 * kEachByte) << kLow;
        last[e] |= ((e == 0 ? b.x : b.y) >> 2 * t & 0x03 * kEachByte) << kLow;
      }
    }
  }
};

/// Adds one group's integer sums: of outputs 2g, 2g + 1 and rows 2t, 2t + 1.
template <TensorType kType>
__device__ __forceinline__ void add_group(const int32_t (&sums)[4], const RowTerms& terms,
                                          const TileStage& stage, uint32_t group, uint32_t place,
                                          uint32_t lane, float (&acc)[4]) {
  const auto scale = reinterpret_cast<const float2*>(stage.scales[group][place])[lane / 4];
  acc[0] = fmaf(sum_to_float(sums[0]), scale.x * terms.dx[0], acc[0]);
  acc[1] = fmaf(sum_to_float(sums[1]), scale.x * terms.dx[1], acc[1]);
  acc[2] = fmaf(sum_to_float(sums[2]), scale.y * terms.dx[0], acc[2]);
  acc[3] = fmaf(sum_to_float(sums[3]), scale.y * terms.dx[1], acc[3]);
  if constexpr (kLayoutOf<kType>.has_min) {
    const auto minimum = reinterpret_cast<const float2*>(stage.minima[group][place])[lane / 4];
    const float b0 = bits_to_float(static_cast<uint32_t>(terms.b[0]));
    const float b1 = bits_to_float(static_cast<uint32_t>(terms.b[1]));
    acc[0] = fmaf(minimum.x, b0, acc[0]);
    acc[1] = fmaf(minimum.x, b1, acc[1]);
    acc[2] = fmaf(minimum.y, b0, acc[2]);
    acc[3] = fmaf(minimum.y, b1, acc[3]);
  }
}

template <TensorType kType>
__device__ __forceinline__ void start_sums(const RowTerms& terms, int32_t (&sums)[4]) {
  constexpr bool kHasMin = kLayoutOf<kType>.has_min;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) sums[i] = kHasMin ? kSumStart : terms.b[i % 2];
}

/// Adds chunk `place` of the stage; `x` are the rows' operands of its two halves.
template <TensorType kType>
__device__ __forceinline__ void add_tile_chunk(const TileCodes<kType>& codes, const uint32_t* x,
                                               const TileStage& stage, uint32_t place,
                                               uint32_t lane, float (&acc)[4]) {
  constexpr uint32_t kGroups = ChunkScales<kType>::kGroups;
  uint32_t first[2], last[2];
  codes.unpack(lane % 4, first, last);
  const RowTerms terms = stage.terms[0][place][lane % 4];
  int32_t sums[4];
  start_sums<kType>(terms, sums);
  mma_u8s8(sums, first, x[0]);
  if constexpr (kGroups == 1) {
    mma_u8s8(sums, last, x[1]);
    add_group<kType>(sums, terms, stage, 0, place, lane, acc);
  } else {
    const RowTerms next = stage.terms[1][place][lane % 4];
    int32_t next_sums[4];
    start_sums<kType>(next, next_sums);
    mma_u8s8(next_sums, last, x[1]);
    add_group<kType>(sums, terms, stage, 0, place, lane, acc);
    add_group<kType>(next_sums, next, stage, 1, place, lane, acc);
  }
}

template <TensorType kType>
__device__ __forceinline__ void add_row_tile(const FewRowsArgs& args, const WarpWork& work,
                                             TileStage& stage) {
  constexpr bool kIsWhole = kLayoutOf<kType>.unit == kStageInputs;
  const uint32_t n_chunks = args.n_in / kChunkInputs;
  const uint32_t lane = work.lane;
  const uint32_t place = lane / kQuarters, quarter = lane % kQuarters;
  float acc[4] = {};
  for (uint32_t first = work.warp * kWarpChunks; first < n_chunks;
       first += work.n_warps * kWarpChunks) {
    // Behind the last chunk it is read again, with scales of zero, so that no branch stands here.
    const uint32_t n = kIsWhole ? kWarpChunks : min(n_chunks - first, kWarpChunks);
    TileCodes<kType> codes[kWarpChunks];
#pragma unroll
    for (uint32_t i = 0; i < kWarpChunks; ++i)
      codes[i].load(work.codes, first + min(i, n - 1), lane);
    ChunkScales<kType> scales;
    scales.load(work.panel, first + min(place, n - 1), quarter);
    stage_codes(args, first, n, lane, stage);
    stage_terms<kType>(args, first + min(place, n - 1), place, quarter, stage);
    stage_scales<kType>(scales, place, quarter, place < n, stage);
    __syncwarp(kFullMask);
#pragma unroll
    for (uint32_t i = 0; i < kWarpChunks; i += 2) {
      uint32_t x[4];
      ldmatrix_x4(x, &stage.q[lane % 8][i * kChunkInputs + lane / 8 * 16]);
      add_tile_chunk<kType>(codes[i], x, stage, i, lane, acc);
      add_tile_chunk<kType>(codes[i + 1], x + 2, stage, i + 1, lane, acc);
    }
    __syncwarp(kFullMask);  // before the next chunks are staged
  }
  const uint32_t g = lane / 4, t = lane % 4;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i)
    stage.sums[(2 * t + i % 2) * kPanelRows + 2 * g + i / 2] = acc[i];
}

}  // namespace
}  // namespace strata::gpu_attn
