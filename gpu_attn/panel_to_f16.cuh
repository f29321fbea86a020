// gpu_attn/panel_to_f16.cuh - packed weights to rows of f16, which the tensor cores multiply.
//
// Formula   out[row, i] = f16(scale * (code - zero) - minimum), computed in f32, rounded to
//           nearest, at most f16's largest number in magnitude.
// Shapes    a matrix of panels (base/panel_layout.inc) to out [n_panels * 16, n_in] f16: rows of
//           the last panel that the matrix has not are zeros, as packed.
// Threads   a warp decodes the 16 rows of eight chunks (256 inputs), a lane four rows of one chunk
//           (panel_chunk.cuh), and writes them row by row, 512 bytes at a time, through shared
//           memory. Warps have nothing to do with each other.
// Bytes     the panels once, two bytes per weight written: 2.6 per weight of Q4_K.
#pragma once

#include "gpu_attn/panel_chunk.cuh"
#include "gpu_attn/tensor_tiles.cuh"

namespace strata::gpu_attn {
namespace {

struct PanelToF16 {
  const uint8_t* panels;
  uint64_t panel_bytes;
  uint64_t codes_offset;  // of a quantised panel
  uint16_t* out;
  uint32_t n_in;
};

constexpr uint32_t kDecodingWarps = 4;
constexpr uint32_t kDecodingThreads = 32 * kDecodingWarps;
constexpr uint32_t kRowPieces = kWarpChunks * kChunkInputs * 2 / kChunk;  // 16 bytes each

/// Where a warp puts piece `piece` of its rows: four quarters' pieces of two chunks, which a
/// quarter of the lanes writes at once, fall into eight different groups of banks.
__device__ __forceinline__ uint32_t piece_at(uint32_t row, uint32_t piece) {
  return row * kRowPieces + (piece ^ row / kLaneRows);
}

/// Sixteen bytes of a row: eight values.
__device__ __forceinline__ uint4 finite_piece(const float (&values)[8]) {
  return make_uint4(
      floats_to_finite_f16x2(values[0], values[1]), floats_to_finite_f16x2(values[2], values[3]),
      floats_to_finite_f16x2(values[4], values[5]), floats_to_finite_f16x2(values[6], values[7]));
}

/// Decodes rows 4 quarter .. of a chunk, of which `to` has pieces 4 in_warp .. 4 in_warp + 3.
template <TensorType kType>
__device__ __forceinline__ void decode_quantised(const PanelToF16& args, const uint8_t* panel,
                                                 uint32_t chunk, uint32_t quarter, uint32_t in_warp,
                                                 uint4* to) {
  using Codes = ChunkCodes<kType>;
  using Scales = ChunkScales<kType>;
  constexpr uint32_t kZero = Codes::kLayout.has_min ? 0 : 1u << Codes::kLayout.zero_shift;
  constexpr uint32_t kPieces = Codes::kQuads / 2;  // of a group
  Codes codes;
  Scales scales;
  codes.load(panel + args.codes_offset, chunk, quarter);
  scales.load(panel, chunk, quarter);
#pragma unroll
  for (uint32_t group = 0; group < Scales::kGroups; ++group) {
    float scale[kLaneRows], minimum[kLaneRows] = {};
    scales.scales(group, scale);
    if constexpr (Codes::kLayout.has_min) scales.minima(group, minimum);
#pragma unroll
    for (uint32_t e = 0; e < kLaneRows; ++e) {
      uint32_t quads[Codes::kQuads];
      codes.unpack(group, e, quads);
#pragma unroll
      for (uint32_t i = 0; i < kPieces; ++i) {
        float values[8];
#pragma unroll
        for (uint32_t k = 0; k < 8; ++k)
          values[k] =
              fmaf(scale[e], byte_to_float(quads[2 * i + k / 4], k % 4, kZero), -minimum[e]);
        to[piece_at(quarter * kLaneRows + e, in_warp * 4 + group * kPieces + i)] =
            finite_piece(values);
      }
    }
  }
}

/// Four rows' values of one input.
template <TensorType kType>
__device__ __forceinline__ void read_four(const uint8_t* panel, uint64_t at,
                                          float (&values)[kLaneRows]) {
  if constexpr (kType == TensorType::kF32) {
    const float4 four = reinterpret_cast<const float4*>(panel)[at];
    values[0] = four.x;
    values[1] = four.y;
    values[2] = four.z;
    values[3] = four.w;
    return;
  }
  const uint2 four = reinterpret_cast<const uint2*>(panel)[at];
#pragma unroll
  for (uint32_t e = 0; e < kLaneRows; ++e) {
    const auto half = static_cast<uint16_t>((e < 2 ? four.x : four.y) >> (16 * (e % 2)));
    values[e] = kType == TensorType::kF16 ? f16_to_float(half) : bf16_to_float(half);
  }
}

template <TensorType kType>
__device__ __forceinline__ void convert_floats(const uint8_t* panel, uint32_t chunk,
                                               uint32_t quarter, uint32_t in_warp, uint4* to) {
#pragma unroll
  for (uint32_t i = 0; i < kChunkInputs / 8; ++i) {
    float values[8][kLaneRows];
#pragma unroll
    for (uint32_t k = 0; k < 8; ++k)
      read_four<kType>(panel, (uint64_t{chunk} * kChunkInputs + 8 * i + k) * kQuarters + quarter,
                       values[k]);
#pragma unroll
    for (uint32_t e = 0; e < kLaneRows; ++e) {
      const float of_row[8] = {values[0][e], values[1][e], values[2][e], values[3][e],
                               values[4][e], values[5][e], values[6][e], values[7][e]};
      to[piece_at(quarter * kLaneRows + e, in_warp * 4 + i)] = finite_piece(of_row);
    }
  }
}

/// Block x: panel; block y and warp: eight chunks.
template <TensorType kType>
__global__ void __launch_bounds__(kDecodingThreads) panel_to_f16(const PanelToF16 args) {
  GPU_SHARED(uint4, pieces, [kDecodingWarps][kPanelRows * kRowPieces]);
  const uint32_t lane = threadIdx.x % 32;
  uint4* mine = pieces[threadIdx.x / 32];
  const uint8_t* panel = args.panels + blockIdx.x * args.panel_bytes;
  const uint32_t first = (blockIdx.y * kDecodingWarps + threadIdx.x / 32) * kWarpChunks;
  const uint32_t chunk = first + lane / kQuarters;
  if (chunk * kChunkInputs < args.n_in) {
    if constexpr (kIsFloat<kType>)
      convert_floats<kType>(panel, chunk, lane % kQuarters, lane / kQuarters, mine);
    else
      decode_quantised<kType>(args, panel, chunk, lane % kQuarters, lane / kQuarters, mine);
  }
  __syncwarp(kFullMask);
  const uint32_t input = first * kChunkInputs + lane * 8;
  if (input >= args.n_in) return;
  uint16_t* out = args.out + uint64_t{blockIdx.x} * kPanelRows * args.n_in + input;
#pragma unroll
  for (uint32_t row = 0; row < kPanelRows; ++row)
    *reinterpret_cast<uint4*>(out + uint64_t{row} * args.n_in) = mine[piece_at(row, lane)];
}

template <TensorType kType>
int launch_panel_to_f16(Stream stream, PanelToF16 args, uint32_t n_panels) {
  if constexpr (!kIsFloat<kType>) args.codes_offset = kLayoutOf<kType>.codes_offset(args.n_in);
  constexpr uint32_t kBlockInputs = kDecodingWarps * kWarpChunks * kChunkInputs;
  const dim3 grid(n_panels, (args.n_in + kBlockInputs - 1) / kBlockInputs);
  return launch(panel_to_f16<kType>, grid, dim3(kDecodingThreads), 0, stream, args);
}

}  // namespace
}  // namespace strata::gpu_attn
