// gpu_attn/panel_to_f16.cuh - packed weights to rows of f16, which the tensor cores multiply.
//
// Formula   out[row, i] = f16(scale * (code - zero) - minimum), computed in f32, rounded to
//           nearest, at most f16's largest number in magnitude.
// Shapes    a matrix of panels (base/panel_layout.inc) to out [n_panels * 16, n_in] f16: rows of
//           the last panel that the matrix has not are zeros, as packed.
// Threads   one writes 16 bytes: eight neighbouring inputs of one row; four threads a chunk of 32
//           inputs, so that the writes are whole sectors. A block works on 16 rows and goes along
//           kRunChunks chunks, four at a time.
// Bytes     the panels once, two bytes per weight written.
#pragma once

#include <stdint.h>

#include "base/packed_matrix.h"
#include "gpu_attn/gpu.cuh"
#include "gpu_attn/tensor_tiles.cuh"

namespace strata::gpu_attn {
namespace {

#include "base/panel_layout.inc"

struct PanelToF16 {
  const uint8_t* panels;
  uint64_t panel_bytes;
  uint64_t codes_offset;  // of a quantised panel
  uint16_t* out;
  uint32_t n_in;
};

constexpr uint32_t kPanelThreads = 256;  // 4 quarters of a chunk x 16 rows x 4 chunks
constexpr uint32_t kRunChunks = 32;      // of a block

/// What device code asks about a type, worked out on the host's side of the compiler.
template <TensorType kType>
struct PanelOf {
  static constexpr PanelLayout kLayout = panel_layout(kType);
  static constexpr bool kIsFloat = is_float_type(kType);
  static constexpr uint32_t kValues = kLayout.n_values();
  static constexpr uint32_t kHeaderBytes = kIsFloat ? 0 : kLayout.header_bytes();
  static constexpr uint32_t kChunkBytes = kLayout.chunk_bytes();
  static constexpr uint32_t kSubOffset = kLayout.has_min ? 64 : 32;  // of a header
  static constexpr uint32_t kZero = kLayout.has_min ? 0 : 1u << kLayout.zero_shift;
};

constexpr uint32_t table_dword(uint32_t first) {
  return uint32_t{kCodeTable[first]} | uint32_t{kCodeTable[first + 1]} << 8 |
         uint32_t{kCodeTable[first + 2]} << 16 | uint32_t{kCodeTable[first + 3]} << 24;
}

constexpr uint32_t kT0 = table_dword(0), kT1 = table_dword(4);
constexpr uint32_t kT2 = table_dword(8), kT3 = table_dword(12);

__device__ __forceinline__ float half_at(const uint8_t* at) {
  return f16_to_float(*reinterpret_cast<const uint16_t*>(at));
}
__device__ __forceinline__ uint32_t dword_at(const uint8_t* at) {
  return *reinterpret_cast<const uint32_t*>(at);
}

/// One of n six-bit values, packed four to three bytes.
template <uint32_t n>
__device__ __forceinline__ uint32_t six_bits_at(const uint8_t* packed, uint32_t index) {
  constexpr uint32_t kPart = n * 4;
  const uint32_t i = index % kPart;
  if (index < 3 * kPart) return packed[index] & 63u;
  return packed[i] >> 6u | (packed[kPart + i] >> 6u) << 2u | (packed[2 * kPart + i] >> 6u) << 4u;
}

/// Scale and minimum of group `group` of a unit, for one row of the panel.
template <TensorType kType>
__device__ __forceinline__ float2 scale_and_minimum(const uint8_t* header, uint32_t row,
                                                    uint32_t group) {
  constexpr PanelLayout kLayout = PanelOf<kType>::kLayout;
  constexpr uint32_t kValues = PanelOf<kType>::kValues;
  const float d = half_at(header + row * 2);
  float m = 0.0f;
  if constexpr (kLayout.has_min) m = half_at(header + 32 + row * 2);
  const uint8_t* sub = header + PanelOf<kType>::kSubOffset;
  const uint32_t at = group * kPanelRows + row;
  if constexpr (kLayout.sub == SubScales::kPair4)
    return make_float2(d * static_cast<float>(sub[at] & 15), m * static_cast<float>(sub[at] >> 4));
  if constexpr (kLayout.sub == SubScales::kInt8)
    return make_float2(d * static_cast<float>(static_cast<int8_t>(sub[at])), 0.0f);
  if constexpr (kLayout.sub == SubScales::kSigned6)
    return make_float2(d * (static_cast<float>(six_bits_at<kValues>(sub, at)) - 32.0f), 0.0f);
  if constexpr (kLayout.sub == SubScales::kPair6)
    return make_float2(
        d * static_cast<float>(six_bits_at<kValues>(sub, at)),
        m * static_cast<float>(six_bits_at<kValues>(sub, at + kValues / 2 * kPanelRows)));
  return make_float2(d, -m);
}

/// Four codes of quad t of a chunk, a byte each. `at` is the row's dword of the chunk's vector 0.
template <TensorType kType>
__device__ __forceinline__ uint32_t quad_at(const uint8_t* at, uint32_t t) {
  constexpr uint32_t kLow = PanelOf<kType>::kLayout.low_bits;
  constexpr uint32_t kHigh = PanelOf<kType>::kLayout.high_bits;
  constexpr uint32_t kEachByte = 0x01010101u;
  if constexpr (kLow == 8) return dword_at(at + t * 64);
  uint32_t quad = kLow == 4 ? dword_at(at + t % 4 * 64) >> (4 * (t / 4))
                            : dword_at(at + t / 4 * 64) >> (2 * (t % 4));
  quad &= kEachByte * ((1u << kLow) - 1);
  if constexpr (kHigh != 0) {
    const uint32_t plane = dword_at(at + (kLow + (kHigh == 1 ? 0 : t / 4)) * 64);
    const uint32_t high = plane >> (kHigh == 1 ? t : 2 * (t % 4));
    quad |= (high & kEachByte * ((1u << kHigh) - 1)) << kLow;
  }
  return quad;
}

/// kCodeTable of each byte of `quad`, which is below 16.
__device__ __forceinline__ uint32_t look_up(uint32_t quad) {
  // Bytes to the nibbles of a selector, which looks at three bits; the fourth chooses the half.
  const uint32_t pairs = quad | quad >> 4;
  const uint32_t nibbles = byte_perm(pairs, 0, 0x4420);
  const uint32_t halves = 0x3210u + ((nibbles & 0x8888u) >> 1);
  return byte_perm(byte_perm(kT0, kT1, nibbles), byte_perm(kT2, kT3, nibbles), halves);
}

/// scale * (code - zero) - minimum of four codes.
template <TensorType kType>
__device__ __forceinline__ uint2 decode_quad(uint32_t quad, float2 scale) {
  constexpr uint32_t kZero = PanelOf<kType>::kZero;
  if constexpr (PanelOf<kType>::kLayout.is_table) quad = look_up(quad);
  float values[4];
#pragma unroll
  for (uint32_t e = 0; e < 4; ++e) {
    // An integer in the low bits of 2^23, which is taken away again without rounding.
    const float raised = bits_to_float(byte_perm(quad, 0x4B000000u, 0x7440u | e));
    values[e] = fmaf(scale.x, raised - static_cast<float>(0x800000u + kZero), -scale.y);
  }
  return make_uint2(finite_f16x2(values[0], values[1]), finite_f16x2(values[2], values[3]));
}

/// Inputs 32 chunk + 8 quarter .. of row `row` of a panel.
template <TensorType kType>
__device__ __forceinline__ uint4 decode_eight(const uint8_t* panel, uint64_t codes_offset,
                                              uint32_t chunk, uint32_t quarter, uint32_t row) {
  if constexpr (PanelOf<kType>::kIsFloat) {
    float values[8];
#pragma unroll
    for (uint32_t e = 0; e < 8; ++e) {
      const uint64_t at = (uint64_t{chunk} * 32 + quarter * 8 + e) * kPanelRows + row;
      if constexpr (kType == TensorType::kF32)
        values[e] = reinterpret_cast<const float*>(panel)[at];
      else if constexpr (kType == TensorType::kF16)
        values[e] = f16_to_float(reinterpret_cast<const uint16_t*>(panel)[at]);
      else
        values[e] = bf16_to_float(reinterpret_cast<const uint16_t*>(panel)[at]);
    }
    return make_uint4(finite_f16x2(values[0], values[1]), finite_f16x2(values[2], values[3]),
                      finite_f16x2(values[4], values[5]), finite_f16x2(values[6], values[7]));
  } else {
    constexpr PanelLayout kLayout = PanelOf<kType>::kLayout;
    constexpr uint32_t kUnitChunks = kLayout.unit / 32;
    const uint8_t* header = panel + uint64_t{chunk / kUnitChunks} * PanelOf<kType>::kHeaderBytes;
    const uint8_t* codes =
        panel + codes_offset + uint64_t{chunk} * PanelOf<kType>::kChunkBytes + row * 4;
    const uint32_t group = (chunk % kUnitChunks * 32 + quarter * 8) / kLayout.group;
    const float2 scale = scale_and_minimum<kType>(header, row, group);
    const uint2 low = decode_quad<kType>(quad_at<kType>(codes, 2 * quarter), scale);
    const uint2 high = decode_quad<kType>(quad_at<kType>(codes, 2 * quarter + 1), scale);
    return make_uint4(low.x, low.y, high.x, high.y);
  }
}

/// Block x: panel; block y: run of chunks.
template <TensorType kType>
__global__ void __launch_bounds__(kPanelThreads) panel_to_f16(const PanelToF16 args) {
  const uint32_t quarter = threadIdx.x % 4;
  const uint32_t row = threadIdx.x / 4 % kPanelRows;
  const uint8_t* panel = args.panels + blockIdx.x * args.panel_bytes;
  uint16_t* out = args.out + (uint64_t{blockIdx.x} * kPanelRows + row) * args.n_in;
  const uint32_t end = min((blockIdx.y + 1) * kRunChunks, args.n_in / 32);
  for (uint32_t chunk = blockIdx.y * kRunChunks + threadIdx.x / 64; chunk < end; chunk += 4)
    *reinterpret_cast<uint4*>(out + chunk * 32 + quarter * 8) =
        decode_eight<kType>(panel, args.codes_offset, chunk, quarter, row);
}

template <TensorType kType>
int launch_panel_to_f16(Stream stream, PanelToF16 args, uint32_t n_panels) {
  if constexpr (!PanelOf<kType>::kIsFloat)
    args.codes_offset = PanelOf<kType>::kLayout.codes_offset(args.n_in);
  const uint32_t n_runs = (args.n_in / 32 + kRunChunks - 1) / kRunChunks;
  return launch(panel_to_f16<kType>, dim3(n_panels, n_runs), dim3(kPanelThreads), 0, stream, args);
}

}  // namespace
}  // namespace strata::gpu_attn
