// gpu_attn/panel_chunk.cuh - how kernels read a chunk (32 inputs) of a quantised panel: the codes'
// table, the scales and the codes of four neighbouring output rows. base/panel_layout.inc says what
// lies where.
//
// Integers become floats without the instruction made for it, which runs at an eighth of the speed
// of others on sm_86: an integer below 2^23 put into the fraction of 2^23 is a float that is 2^23
// too large, and the subtraction is exact.
#pragma once

#include <stdint.h>

#include "base/kernel_table.h"
#include "gpu_attn/gpu.cuh"

namespace strata::gpu_attn {
namespace {

#include "base/panel_layout.inc"

constexpr uint32_t kChunkInputs = 32;
constexpr uint32_t kLaneRows = 4;  // output rows that a thread reads
constexpr uint32_t kQuarters = kPanelRows / kLaneRows;
constexpr uint32_t kWarpChunks = 32 / kQuarters;  // chunks of 16 rows that a warp reads at once

constexpr uint32_t kEachByte = 0x01010101u;

template <TensorType kType>
constexpr PanelLayout kLayoutOf = panel_layout(kType);
template <TensorType kType>
constexpr bool kIsFloat = is_float_type(kType);

/// Four bytes of kCodeTable from entry `first` on.
constexpr uint32_t code_table_dword(uint32_t first) {
  return uint32_t{kCodeTable[first]} | uint32_t{kCodeTable[first + 1]} << 8 |
         uint32_t{kCodeTable[first + 2]} << 16 | uint32_t{kCodeTable[first + 3]} << 24;
}
constexpr uint32_t kTable0 = code_table_dword(0);
constexpr uint32_t kTable4 = code_table_dword(4);
constexpr uint32_t kTable8 = code_table_dword(8);
constexpr uint32_t kTable12 = code_table_dword(12);

/// Looks up the eight nibbles of `nibbles`: the low ones of its bytes, then the high ones.
__device__ __forceinline__ void look_up_codes(uint32_t nibbles, uint32_t& low, uint32_t& high) {
  // A selector has three bits; the fourth chooses between the halves of the table.
  const uint32_t index = nibbles & 0x77777777u;
  const uint32_t half = 0x32103210u | (nibbles & 0x88888888u) >> 1;
  const uint32_t first =
      byte_perm(byte_perm(kTable0, kTable4, index), byte_perm(kTable8, kTable12, index), half);
  const uint32_t last = byte_perm(byte_perm(kTable0, kTable4, index >> 16),
                                  byte_perm(kTable8, kTable12, index >> 16), half >> 16);
  low = byte_perm(first, last, 0x6420u);
  high = byte_perm(first, last, 0x7531u);
}

/// Byte `e` of `bytes` as a float, less `offset`.
__device__ __forceinline__ float byte_to_float(uint32_t bytes, uint32_t e, uint32_t offset) {
  const uint32_t raised = byte_perm(bytes, 0x4B000000u, 0x7440u | e);
  return bits_to_float(raised) - static_cast<float>(0x800000u + offset);
}

/// Four six-bit values of part `part` of four, from the dwords of the three stored parts at the
/// same place.
__device__ __forceinline__ uint32_t six_bits(const uint32_t (&stored)[3], uint32_t part) {
  const uint32_t own = part == 0 ? stored[0] : part == 1 ? stored[1] : stored[2];
  const uint32_t spread = (stored[0] >> 6 & 0x03 * kEachByte) |
                          (stored[1] >> 4 & 0x0c * kEachByte) | (stored[2] >> 2 & 0x30 * kEachByte);
  return part == 3 ? spread : own & 0x3f * kEachByte;
}

/// Scales and minima of four output rows of one chunk.
template <TensorType kType>
struct ChunkScales {
  static constexpr PanelLayout kLayout = kLayoutOf<kType>;
  static constexpr uint32_t kGroups = kChunkInputs / kLayout.group;
  static constexpr uint32_t kUnitChunks = kLayout.unit / kChunkInputs;
  static constexpr uint32_t kHeaderBytes = kLayout.header_bytes();
  static constexpr uint32_t kPartBytes = kLayout.n_values() * 4;  // of six-bit sub-scales
  static constexpr SubScales kSub = kLayout.sub;

  uint2 d;             // four f16
  uint2 m;             // the same, where the type has minima
  uint32_t sub[2][3];  // of each group; of kPair6, whose group is the chunk, in the first
  uint32_t in_unit;    // the chunk's place

  /// Queues the loads: chunk number `chunk` of the panel, rows 4 quarter ..
  __device__ __forceinline__ void load(const uint8_t* panel, uint32_t chunk, uint32_t quarter) {
    const uint8_t* header = panel + uint64_t{chunk / kUnitChunks} * kHeaderBytes;
    in_unit = chunk % kUnitChunks;
    d = *reinterpret_cast<const uint2*>(header + quarter * 8);
    if constexpr (kLayout.has_min) m = *reinterpret_cast<const uint2*>(header + 32 + quarter * 8);
    const uint8_t* values = header + (kLayout.has_min ? 64 : 32) + quarter * kLaneRows;
#pragma unroll
    for (uint32_t group = 0; group < kGroups; ++group) {
      const uint32_t at = (in_unit * kGroups + group) * kPanelRows;
      if constexpr (kSub == SubScales::kPair4 || kSub == SubScales::kInt8) {
        sub[group][0] = *reinterpret_cast<const uint32_t*>(values + at);
      } else if constexpr (kSub != SubScales::kNone) {
#pragma unroll
        for (uint32_t part = 0; part < 3; ++part)
          sub[group][part] =
              *reinterpret_cast<const uint32_t*>(values + part * kPartBytes + at % kPartBytes);
      }
    }
  }

  /// What the codes of group `group` are multiplied with.
  __device__ __forceinline__ void scales(uint32_t group, float (&scale)[kLaneRows]) const {
    constexpr uint32_t kOffset = kSub == SubScales::kSigned6 ? 32
                                 : kSub == SubScales::kInt8  ? 128
                                                             : 0;
    four_halves(d, scale);
    if constexpr (kSub != SubScales::kNone) {
      const uint32_t bytes = scale_bytes(group);
#pragma unroll
      for (uint32_t e = 0; e < kLaneRows; ++e) scale[e] *= byte_to_float(bytes, e, kOffset);
    }
  }

  /// What is subtracted from every weight of group `group`, of types that have minima.
  __device__ __forceinline__ void minima(uint32_t group, float (&minimum)[kLaneRows]) const {
    four_halves(m, minimum);
    const uint32_t bytes = minimum_bytes(group);
#pragma unroll
    for (uint32_t e = 0; e < kLaneRows; ++e) {
      if constexpr (kSub == SubScales::kNone)
        minimum[e] = -minimum[e];
      else
        minimum[e] *= byte_to_float(bytes, e, 0);
    }
  }

 private:
  /// The rows' sub-scales, a byte each. Four parts of six-bit values are the groups of two chunks
  /// each (kSigned6), or of four chunks each, the scales before the minima (kPair6).
  __device__ __forceinline__ uint32_t scale_bytes(uint32_t group) const {
    if constexpr (kSub == SubScales::kPair4)
      return sub[group][0] & 0x0f * kEachByte;
    else if constexpr (kSub == SubScales::kInt8)
      return sub[group][0] ^ 0x80 * kEachByte;
    else if constexpr (kSub == SubScales::kSigned6)
      return six_bits(sub[group], in_unit / 2);
    else
      return six_bits(sub[group], in_unit / 4);
  }
  __device__ __forceinline__ uint32_t minimum_bytes(uint32_t group) const {
    if constexpr (kSub == SubScales::kPair4)
      return sub[group][0] >> 4 & 0x0f * kEachByte;
    else if constexpr (kSub == SubScales::kPair6)
      return six_bits(sub[group], 2 + in_unit / 4);
    else
      return 0;
  }

  static __device__ __forceinline__ void four_halves(uint2 halves, float (&values)[kLaneRows]) {
    const float2 first = f16x2_to_float2(halves.x);
    const float2 last = f16x2_to_float2(halves.y);
    values[0] = first.x;
    values[1] = first.y;
    values[2] = last.x;
    values[3] = last.y;
  }
};

/// The codes of four output rows of one chunk.
template <TensorType kType>
struct ChunkCodes {
  static constexpr PanelLayout kLayout = kLayoutOf<kType>;
  static constexpr uint32_t kPlanes = kLayout.low_bits + kLayout.high_bits;
  static constexpr uint32_t kQuads = kLayout.group / 4;  // of a group
  static constexpr uint32_t kChunkBytes = kLayout.chunk_bytes();

  uint32_t planes[kPlanes][kLaneRows];

  __device__ __forceinline__ void load(const uint8_t* codes, uint32_t chunk, uint32_t quarter) {
    const uint8_t* at = codes + uint64_t{chunk} * kChunkBytes + quarter * 16;
#pragma unroll
    for (uint32_t i = 0; i < kPlanes; ++i) {
      const uint4 vector = load16_once(at + i * 64);
      planes[i][0] = vector.x;
      planes[i][1] = vector.y;
      planes[i][2] = vector.z;
      planes[i][3] = vector.w;
    }
  }

  /// Quads of group `group` of row e, four codes to a dword.
  __device__ __forceinline__ void unpack(uint32_t group, uint32_t e,
                                         uint32_t (&quads)[kQuads]) const {
    if constexpr (kLayout.is_table) {
#pragma unroll
      for (uint32_t t = 0; t < 4; ++t) look_up_codes(planes[t][e], quads[t], quads[4 + t]);
    } else {
#pragma unroll
      for (uint32_t t = 0; t < kQuads; ++t) quads[t] = quad(group * kQuads + t, e);
    }
  }

 private:
  __device__ __forceinline__ uint32_t quad(uint32_t t, uint32_t e) const {
    constexpr uint32_t kLow = kLayout.low_bits;
    constexpr uint32_t kHigh = kLayout.high_bits;
    if constexpr (kLow == 8) {
      return planes[t][e];
    } else {
      const uint32_t vector = kLow == 4 ? t % 4 : t / 4;
      const uint32_t shift = kLow == 4 ? 4 * (t / 4) : 2 * (t % 4);
      const uint32_t low = planes[vector][e] >> shift & ((1u << kLow) - 1) * kEachByte;
      if constexpr (kHigh == 0) {
        return low;
      } else {
        const uint32_t plane = planes[kLow + (kHigh == 1 ? 0 : t / 4)][e];
        const uint32_t bit = kHigh == 1 ? t : 2 * (t % 4);
        const uint32_t high = bit < kLow ? plane << (kLow - bit) : plane >> (bit - kLow);
        return low | (high & (((1u << kHigh) - 1) << kLow) * kEachByte);
      }
    }
  }
};

}  // namespace
}  // namespace strata::gpu_attn
