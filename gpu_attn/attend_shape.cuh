// gpu_attn/attend_shape.cuh - where the bytes of a KV block lie in shared memory, how they get
// there and how they leave as operands of the tensor cores. Why: the decode kernel's arithmetic
// (attend_tensor.cuh) should not be read through its addresses.
//
// A stage in shared memory has the layout of the block in memory (base/kv_layout.h), so a copy is
// straight but for two permutations inside a part:
//   units  A row (a dimension of K, a position of V) is kUnits units of 16 bytes. Unit u of row r
//          lies at u ^ swizzle(r), so that the 8 rows that one ldmatrix reads at the same u lie in
//          different banks. The XOR stays inside the largest power of two that divides kUnits, at
//          most 8: what remains of the stride separates the rest.
//   rows   Where K is q8_0, the positions 4i, 4i + 1 of a half block of V are the rows 2i, 2i + 1,
//          the positions 4i + 2, 4i + 3 the rows 8 + 2i, 9 + 2i: the order in which a lane's scores
//          become its weights (below).
//
// ldmatrix moves pairs of bytes. Of f16 it gives each lane the two rows of one column, which is the
// operand. Of int8 it gives two rows of two neighbouring columns; the even bytes are the operand of
// one tile of 8 columns, the odd bytes of another. So an int8 tile pair holds columns 2g and 2g + 1
// where an f16 pair holds g and 8 + g: for K that permutes positions, for V dimensions.
#pragma once

#include "base/kv_layout.h"
#include "gpu_attn/gpu.cuh"

namespace strata::gpu_attn {

inline constexpr uint32_t kUnitBytes = 16;
inline constexpr uint32_t kHalfBlock = kBlockPositions / 2;
// Shared memory of a thread block, its 1.5 KB beside not counted: three fit a multiprocessor of 228
// KB, one fits the 100 KB of a consumer card.
inline constexpr uint32_t kAttendSharedMax = 73 * 1024;

constexpr uint32_t round_up_to(uint32_t n, uint32_t step) { return (n + step - 1) / step * step; }

/// The units that a row's XOR permutes, less one.
template <uint32_t kUnits>
inline constexpr uint32_t kSwizzleMask = kUnits % 8 == 0   ? 7
                                         : kUnits % 4 == 0 ? 3
                                         : kUnits % 2 == 0 ? 1
                                                           : 0;

template <uint32_t kUnits>
__host__ __device__ __forceinline__ constexpr uint32_t swizzle(uint32_t row) {
  constexpr uint32_t kMask = kSwizzleMask<kUnits>;
  return (kMask == 7 ? row : kMask == 3 ? row / 2 : row / 4) & kMask;
}

/// Whether the 8 rows of one ldmatrix lie in different banks: 8 units are all of them.
template <uint32_t kUnits>
constexpr bool rows_lie_apart() {
  for (uint32_t unit = 0; unit < kUnits; ++unit) {
    uint32_t banks = 0;
    for (uint32_t row = 0; row < 8; ++row)
      banks |= 1u << (row * kUnits + (unit ^ swizzle<kUnits>(row))) % 8;
    if (banks != 0xff) return false;
  }
  return true;
}

/// What a kernel is compiled for. Offsets are those that KvLayout::make gives.
template <KvCodec kKCodec, KvCodec kVCodec, uint32_t kDim>
struct AttendShape {
  static constexpr uint32_t kHeadDim = kDim;
  static constexpr bool kScaledK = kKCodec == KvCodec::kQ8_0;
  static constexpr bool kScaledV = kVCodec == KvCodec::kQ8_0;
  static constexpr uint32_t kGroups = kDim / kScaleGroup;
  static constexpr uint32_t kScalesBytes = round_up_to(kGroups * kBlockPositions * 2, 64);
  static constexpr uint32_t kKUnits = kScaledK ? 2 : 4;  // of a row of K: 32 positions
  static constexpr uint32_t kVUnits = kDim * (kScaledV ? 1 : 2) / kUnitBytes;
  static_assert(rows_lie_apart<kKUnits>() && rows_lie_apart<kVUnits>());
  static constexpr uint32_t kKScales = round_up_to(kDim * kKUnits * kUnitBytes, 64);
  static constexpr uint32_t kV = kKScales + (kScaledK ? kScalesBytes : 0);
  static constexpr uint32_t kVScales = kV + kBlockPositions * kVUnits * kUnitBytes;
  static constexpr uint32_t kBlockBytes = kVScales + (kScaledV ? kScalesBytes : 0);

  // Copies that a block is taken in: two of K; two of V, or one where the scales of all positions
  // are wanted at once.
  static constexpr uint32_t kItems = kScaledV ? 3 : 4;
  // Dimensions of K's first item; whole groups where they have scales.
  static constexpr uint32_t kFirstDims = round_up_to(kDim / 2, kScaledK ? kScaleGroup : 16);
  static constexpr uint32_t kSteps = kDim / 16;  // of the tensor cores over the dimensions
  static constexpr uint32_t kTiles = kDim / 8;   // of 8 output dimensions

  static constexpr uint32_t kWarps = kDim > 128 ? 2 : 4;
  static constexpr uint32_t kThreads = kWarps * 32;
  static constexpr uint32_t kQueriesBytes = kSteps * 32 * 16 + 128;  // QueriesInShared
  static constexpr uint32_t stages(uint32_t n) { return kWarps * n * kBlockBytes; }
  static constexpr uint32_t kStages = stages(4) + kQueriesBytes <= kAttendSharedMax   ? 4
                                      : stages(2) + kQueriesBytes <= kAttendSharedMax ? 2
                                                                                      : 1;
  static constexpr uint32_t kStagesBytes = stages(kStages);
  static constexpr uint32_t kSharedBytes = kStagesBytes + kQueriesBytes;
};

/// The position of a half block of V that lies at a row.
template <bool kPermuted>
__device__ __forceinline__ uint32_t position_of_row(uint32_t row) {
  return kPermuted ? row % 8 / 2 * 4 + row / 8 * 2 + row % 2 : row;
}

// ---- From memory to shared memory. A warp reads 128 neighbouring bytes or more at a time.

/// kRows rows, of which the permuted are 16.
template <uint32_t kUnits, uint32_t kRows, bool kPermuted>
__device__ __forceinline__ void copy_rows(unsigned char* to, const std::byte* from, uint32_t lane) {
  static_assert(kUnits * kRows % 32 == 0 && (!kPermuted || kRows == kHalfBlock));
  // 8 units of 4 rows where rows have so many: the XOR of a lane then has two values in all.
  constexpr uint32_t kWide = kUnits % 8 == 0 ? 8 : kUnits;
#pragma unroll
  for (uint32_t first = 0; first < kUnits * kRows; first += 32) {
    const uint32_t at = first % (32 / kWide * kUnits) / 32 * kWide;  // unit, where rows are wider
    const uint32_t row = kWide == 8 ? first / (4 * kUnits) * 4 + lane / 8 : (first + lane) / kUnits;
    const uint32_t unit = kWide == 8 ? at + lane % 8 : (first + lane) % kUnits;
    const uint32_t place = row * kUnits + (unit ^ swizzle<kUnits>(row));
    const uint32_t source = position_of_row<kPermuted>(row) * kUnits + unit;
    cp_async16(to + place * kUnitBytes, from + source * kUnitBytes);
  }
}

/// K's dimensions from kBegin on, and their scales.
template <class Shape, uint32_t kBegin, uint32_t kEnd>
__device__ __forceinline__ void copy_keys(unsigned char* stage, const std::byte* block,
                                          uint32_t lane) {
  constexpr uint32_t kOffset = kBegin * Shape::kKUnits * kUnitBytes;
  copy_rows<Shape::kKUnits, kEnd - kBegin, false>(stage + kOffset, block + kOffset, lane);
  if constexpr (Shape::kScaledK) {
    constexpr uint32_t kScales = Shape::kKScales + kBegin / kScaleGroup * kBlockPositions * 2;
    constexpr uint32_t kScaleUnits = (kEnd - kBegin) / kScaleGroup * kBlockPositions * 2 / 16;
    if (lane < kScaleUnits)
      cp_async16(stage + kScales + lane * kUnitBytes, block + kScales + lane * kUnitBytes);
  }
}

/// Half of V's positions.
template <class Shape, uint32_t kHalf>
__device__ __forceinline__ void copy_values(unsigned char* stage, const std::byte* block,
                                            uint32_t lane) {
  constexpr uint32_t kOffset = Shape::kV + kHalf * kHalfBlock * Shape::kVUnits * kUnitBytes;
  copy_rows<Shape::kVUnits, kHalfBlock, Shape::kScaledK>(stage + kOffset, block + kOffset, lane);
}

/// All of V, and its scales.
template <class Shape>
__device__ __forceinline__ void copy_scaled_values(unsigned char* stage, const std::byte* block,
                                                   uint32_t lane) {
  copy_values<Shape, 0>(stage, block, lane);
  copy_values<Shape, 1>(stage, block, lane);
  if (lane < Shape::kGroups * kBlockPositions * 2 / kUnitBytes) {
    const uint32_t at = Shape::kVScales + lane * kUnitBytes;
    cp_async16(stage + at, block + at);
  }
}

template <class Shape, uint32_t kItem>
__device__ __forceinline__ void copy_item(unsigned char* stage, const std::byte* block,
                                          uint32_t lane) {
  if constexpr (kItem == 0) copy_keys<Shape, 0, Shape::kFirstDims>(stage, block, lane);
  if constexpr (kItem == 1)
    copy_keys<Shape, Shape::kFirstDims, Shape::kHeadDim>(stage, block, lane);
  if constexpr (kItem >= 2 && Shape::kScaledV) {
    copy_scaled_values<Shape>(stage, block, lane);
  } else if constexpr (kItem >= 2) {
    copy_values<Shape, kItem - 2>(stage, block, lane);
  }
}

/// Zeros for those of V's positions [kBegin, kEnd) that are not below n_real: no one wrote them,
/// and NaN times a weight of zero is NaN.
template <class Shape, uint32_t kBegin, uint32_t kEnd>
__device__ __forceinline__ void clear_values(unsigned char* stage, uint32_t n_real, uint32_t lane) {
  if constexpr (Shape::kScaledV) {
    auto* scales = reinterpret_cast<uint16_t*>(stage + Shape::kVScales);
    for (uint32_t i = lane; i < Shape::kGroups * kBlockPositions; i += 32)
      if (i % kBlockPositions >= n_real) scales[i] = 0;
  } else {
    auto* values = reinterpret_cast<uint4*>(stage + Shape::kV) + kBegin * Shape::kVUnits;
    for (uint32_t i = lane; i < (kEnd - kBegin) * Shape::kVUnits; i += 32)
      if (kBegin + position_of_row<Shape::kScaledK>(i / Shape::kVUnits) >= n_real)
        values[i] = make_uint4(0, 0, 0, 0);
  }
}

// ---- From shared memory to operands.

/// The byte of 16 rows that this lane names to ldmatrix for the first pair of units: matrices 0 and
/// 1 are rows 0..7 and 8..15 of the first unit, 2 and 3 those of the second.
template <uint32_t kUnits>
__device__ __forceinline__ uint32_t operand_offset(uint32_t lane) {
  const uint32_t row = lane % 16;
  return (row * kUnits + (lane / 16 ^ swizzle<kUnits>(row))) * kUnitBytes;
}
/// The same for the units 2 pair and 2 pair + 1.
template <uint32_t kUnits>
__device__ __forceinline__ uint32_t pair_offset(uint32_t offset, uint32_t pair) {
  const uint32_t low = 2 * pair & kSwizzleMask<kUnits>;
  return (offset ^ low * kUnitBytes) + (2 * pair - low) * kUnitBytes;
}

/// Operands of the tiles of columns that a pair of units holds: 2 of f16, 4 of int8.
template <bool kInt8>
struct Operands;
template <>
struct Operands<false> {
  static constexpr uint32_t kTiles = 2;
  uint32_t b[2][2];
  __device__ __forceinline__ explicit Operands(const unsigned char* row) {
    uint32_t r[4];
    ldmatrix_x4_trans(r, row);
    b[0][0] = r[0];
    b[0][1] = r[1];
    b[1][0] = r[2];
    b[1][1] = r[3];
  }
};
template <>
struct Operands<true> {
  static constexpr uint32_t kTiles = 4;
  uint32_t b[4][2];
  __device__ __forceinline__ explicit Operands(const unsigned char* row) {
    uint32_t r[4];
    ldmatrix_x4_trans(r, row);
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      // An f16 of 1024 and more holds an integer in its low bits: 1024 + (x + 128) less 1152.
      const uint32_t offset_bytes = r[i] ^ 0x80808080u;
      b[i / 2 * 2][i % 2] = sub_f16x2(byte_perm(offset_bytes, 0x64646464u, 0x4240), 0x64806480u);
      b[i / 2 * 2 + 1][i % 2] =
          sub_f16x2(byte_perm(offset_bytes, 0x64646464u, 0x4341), 0x64806480u);
    }
  }
};

}  // namespace strata::gpu_attn
