// gpu_attn/embed.cu - rows of a packed matrix, decoded: the embedding of tokens.
//
// Formula  out[i] = scale * (d (code - zero) - m), the operations of cpu_attn::unpack_row in its
//          order, so the same bits where scale is 1. A contraction to fused multiply-adds changes
//          none: where there is a minimum, d, m and codes have 11 + 6 + 5 bits together, so every
//          product is exact. Float types are converted and multiplied.
// Shapes   as DeviceEmbedArgs; matrix in panels (base/panel_layout.inc)
// Threads  one thread decodes four neighbouring inputs of one row (a quad of a plane) and writes
//          16 bytes; 256 threads take a stretch of 1024 inputs of one row
// Bytes    embed_bytes(args). A row's dwords lie 64 bytes apart, so that the card reads each of
//          their sectors (32 bytes) for eight rows; a step embeds few rows, and all of prefill's
//          are under 1 % of a layer's bytes.
// Numbers  one kernel for all types, the layout's fields at run time: it is never the bottleneck,
//          and fifteen kernels would be compiled for it.
#include "base/check.h"
#include "gpu_attn/device_stream.cuh"
#include "gpu_attn/kernels.h"
#include "gpu_attn/panel_chunk.cuh"

namespace strata::gpu_attn {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kThreadInputs = 4;

struct EmbedArgs {
  const uint8_t* panels;
  const int32_t* tokens;
  float* out;
  uint64_t panel_bytes;
  uint64_t codes_offset;
  PanelLayout layout;
  uint32_t header_bytes;
  uint32_t chunk_bytes;
  uint32_t part_bytes;  // of six-bit sub-scales
  uint32_t n_in;
  uint32_t row_blocks;  // thread blocks of one row
  float scale;
  TensorType type;
};

/// The four codes of quad t of a plane of `bits` per code; `plane` is the lane's first dword.
__device__ __forceinline__ uint32_t plane_quad(const uint8_t* plane, uint32_t bits, uint32_t t) {
  const uint32_t vector = bits == 8 ? t : bits == 4 ? t % 4 : bits == 2 ? t / 4 : 0;
  const uint32_t shift = bits == 8 ? 0 : bits == 4 ? 4 * (t / 4) : bits == 2 ? 2 * (t % 4) : t;
  const uint32_t dword = *reinterpret_cast<const uint32_t*>(plane + vector * 64);
  return dword >> shift & ((1u << bits) - 1) * kEachByte;
}

/// Value number `value` of the lane's sub-scales, as it is stored.
__device__ __forceinline__ uint32_t sub_scale(const EmbedArgs& args, const uint8_t* values,
                                              uint32_t value, uint32_t lane) {
  const uint32_t at = value * kPanelRows + lane;
  if (args.layout.sub == SubScales::kPair4 || args.layout.sub == SubScales::kInt8)
    return values[at];
  const uint32_t part = at / args.part_bytes, place = at % args.part_bytes;
  if (part < 3) return values[at] & 63u;
  return uint32_t{values[place]} >> 6u | (values[args.part_bytes + place] >> 6u) << 2u |
         (values[2 * args.part_bytes + place] >> 6u) << 4u;
}

struct GroupScale {
  float scale;
  float minimum;
};

__device__ __forceinline__ GroupScale group_scale(const EmbedArgs& args, const uint8_t* header,
                                                  uint32_t group, uint32_t lane) {
  const auto* halves = reinterpret_cast<const uint16_t*>(header);
  const float d = f16_to_float(halves[lane]);
  const float m = args.layout.has_min ? f16_to_float(halves[kPanelRows + lane]) : 0.0f;
  if (args.layout.sub == SubScales::kNone) return {d, -m};
  const uint8_t* values = header + (args.layout.has_min ? 64 : 32);
  const uint32_t own = sub_scale(args, values, group, lane);
  switch (args.layout.sub) {
    case SubScales::kPair4:
      return {d * static_cast<float>(own & 15), m * static_cast<float>(own >> 4)};
    case SubScales::kInt8:
      return {d * static_cast<float>(static_cast<int8_t>(own)), 0.0f};
    case SubScales::kSigned6:
      return {d * static_cast<float>(static_cast<int32_t>(own) - 32), 0.0f};
    default:  // kPair6: eight scales, then eight minima
      return {d * static_cast<float>(own),
              m * static_cast<float>(sub_scale(args, values, 8 + group, lane))};
  }
}

__device__ __forceinline__ void decode_quantised(const EmbedArgs& args, const uint8_t* panel,
                                                 uint32_t lane, uint32_t k,
                                                 float (&values)[kThreadInputs]) {
  const PanelLayout& layout = args.layout;
  const uint32_t t = k % kChunkInputs / 4;
  const uint8_t* codes =
      panel + args.codes_offset + uint64_t{k / kChunkInputs} * args.chunk_bytes + lane * 4;
  uint32_t quad = plane_quad(codes, layout.low_bits, t);
  if (layout.high_bits != 0)
    quad |= plane_quad(codes + layout.low_bits * 64, layout.high_bits, t) << layout.low_bits;
  const GroupScale by = group_scale(args, panel + uint64_t{k / layout.unit} * args.header_bytes,
                                    k % layout.unit / layout.group, lane);
  const int32_t zero = layout.has_min ? 0 : 1 << layout.zero_shift;
#pragma unroll
  for (uint32_t i = 0; i < kThreadInputs; ++i) {
    uint32_t code = quad >> 8 * i & 255;
    if (layout.is_table)
      code = byte_perm(code < 8 ? kTable0 : kTable8, code < 8 ? kTable4 : kTable12, code & 7) & 255;
    const float product = by.scale * static_cast<float>(static_cast<int32_t>(code) - zero);
    values[i] = (layout.has_min ? product - by.minimum : product) * args.scale;
  }
}

__device__ __forceinline__ void decode_float(const EmbedArgs& args, const uint8_t* panel,
                                             uint32_t lane, uint32_t k,
                                             float (&values)[kThreadInputs]) {
  const uint64_t first = uint64_t{k} * kPanelRows + lane;
#pragma unroll
  for (uint32_t i = 0; i < kThreadInputs; ++i) {
    if (k + i >= args.n_in) break;
    const uint64_t at = first + i * kPanelRows;
    const float value = args.type == TensorType::kF32 ? reinterpret_cast<const float*>(panel)[at]
                        : args.type == TensorType::kF16
                            ? f16_to_float(reinterpret_cast<const uint16_t*>(panel)[at])
                            : bf16_to_float(reinterpret_cast<const uint16_t*>(panel)[at]);
    values[i] = value * args.scale;
  }
}

__global__ void __launch_bounds__(kThreads) embed_rows(const EmbedArgs args) {
  const uint32_t i = blockIdx.x / args.row_blocks;
  const uint32_t k = (blockIdx.x % args.row_blocks * kThreads + threadIdx.x) * kThreadInputs;
  if (k >= args.n_in) return;
  const auto token = static_cast<uint32_t>(args.tokens[i]);
  const uint8_t* panel = args.panels + token / kPanelRows * args.panel_bytes;
  float values[kThreadInputs] = {};
  if (args.layout.unit != 0)
    decode_quantised(args, panel, token % kPanelRows, k, values);
  else
    decode_float(args, panel, token % kPanelRows, k, values);
  float* out = args.out + uint64_t{i} * args.n_in + k;
  if (args.n_in % kThreadInputs == 0) {
    *reinterpret_cast<float4*>(out) = make_float4(values[0], values[1], values[2], values[3]);
    return;
  }
#pragma unroll
  for (uint32_t j = 0; j < kThreadInputs; ++j)
    if (k + j < args.n_in) out[j] = values[j];
}

}  // namespace

int embed(DeviceStream* stream, const DeviceEmbedArgs& args) {
  const PackedMatrix& w = args.matrix;
  const PanelLayout layout = panel_layout(w.type);  // all zeros of float types
  STRATA_CHECK(w.n_in > 0 && (is_float_type(w.type) || w.n_in % layout.unit == 0),
               "n_in=%u unit=%u", w.n_in, layout.unit);
  STRATA_CHECK(reinterpret_cast<uintptr_t>(args.out) % 16 == 0, "out=%p",
               static_cast<const void*>(args.out));
  if (args.n_rows == 0) return 0;
  const uint32_t block_inputs = kThreads * kThreadInputs;
  const uint32_t row_blocks = (w.n_in + block_inputs - 1) / block_inputs;
  const EmbedArgs of_kernel{.panels = reinterpret_cast<const uint8_t*>(w.bytes),
                            .tokens = args.tokens,
                            .out = args.out,
                            .panel_bytes = w.panel_bytes,
                            .codes_offset = is_float_type(w.type) ? 0 : layout.codes_offset(w.n_in),
                            .layout = layout,
                            .header_bytes = layout.header_bytes(),
                            .chunk_bytes = layout.chunk_bytes(),
                            .part_bytes = layout.n_values() * 4,
                            .n_in = w.n_in,
                            .row_blocks = row_blocks,
                            .scale = args.scale,
                            .type = w.type};
  return launch(embed_rows, dim3(args.n_rows * row_blocks), dim3(kThreads), 0, stream->handle,
                of_kernel);
}

}  // namespace strata::gpu_attn
