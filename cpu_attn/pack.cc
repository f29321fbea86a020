// cpu_attn/pack.cc - reads the file's blocks and writes panels (panel_layout.inc says what lies
// where). Panels whose sixteen rows all exist are packed by pack_turned.cc; here is the reference,
// which packs the others, a lane at a time. Every type is cut into 8 quads per 32 inputs, four
// codes to a dword, so that the planes are filled without looking at single codes: about 4 G
// weights/s and core for Q4_K.
#include "cpu_attn/pack.h"

#include <emmintrin.h>
#include <string.h>

#include <algorithm>

#include "base/check.h"
#include "base/half.h"
#include "cpu_attn/pack_panel.h"

namespace strata::cpu_attn {
namespace {

#include "base/panel_layout.inc"

#include "cpu_attn/pack_plain.inc"

/// One block of the file, decoded as far as packing needs it.
struct Block {
  uint16_t d = 0;
  uint16_t m = 0;
  uint8_t values[16] = {};  // sub-scales in the order of panel_layout.inc
  uint32_t quads[8][8] = {};
};

constexpr uint32_t kNibbles = in_each_byte(15);

/// 16 bytes of nibbles: inputs 0..15 low, 16..31 high.
inline void read_nibbles(const uint8_t* codes, uint32_t* quads) {
  for (uint32_t j = 0; j < 4; ++j) {
    const uint32_t dword = load_dword(codes + 4 * j);
    quads[j] = dword & kNibbles;
    quads[4 + j] = (dword >> 4) & kNibbles;
  }
}

/// Bit i of `bits` becomes bit 4 of code i. Each product spreads four bits over four bytes.
inline void add_fifth_bits(uint32_t bits, uint32_t* quads) {
  for (uint32_t t = 0; t < 8; ++t)
    quads[t] |= ((((bits >> (4 * t)) & 15) * 0x00204081u) & in_each_byte(1)) << 4;
}

template <TensorType kType>
void read_small_block(const uint8_t* at, Block& block) {
  constexpr bool kHasMin = panel_layout(kType).has_min;
  block.d = load_half(at);
  if constexpr (kHasMin) block.m = load_half(at + 2);
  at += kHasMin ? 4 : 2;
  if constexpr (kType == TensorType::kQ8_0) {
    for (uint32_t t = 0; t < 8; ++t)
      block.quads[0][t] = load_dword(at + 4 * t) ^ in_each_byte(0x80);
  } else if constexpr (kType == TensorType::kQ5_0 || kType == TensorType::kQ5_1) {
    read_nibbles(at + 4, block.quads[0]);
    add_fifth_bits(load_dword(at), block.quads[0]);
  } else {
    read_nibbles(at, block.quads[0]);
  }
}

void read_q2_k(const uint8_t* at, Block& block) {
  memcpy(block.values, at, 16);
  block.d = load_half(at + 80);
  block.m = load_half(at + 82);
  for (uint32_t c = 0; c < 8; ++c)
    for (uint32_t t = 0; t < 8; ++t)
      block.quads[c][t] =
          (load_dword(at + 16 + 32 * (c / 4) + 4 * t) >> (2 * (c % 4))) & in_each_byte(3);
}

void read_q3_k(const uint8_t* at, Block& block) {
  const uint8_t* high = at;
  const uint8_t* low = at + 32;
  const uint8_t* scales = at + 96;
  block.d = load_half(at + 108);
  for (uint32_t g = 0; g < 16; ++g) {
    const uint32_t four = g < 8 ? scales[g] & 15u : scales[g - 8] >> 4u;
    const uint32_t two = (scales[8 + g % 4] >> (2 * (g / 4))) & 3u;
    block.values[g] = static_cast<uint8_t>(four | two << 4);
  }
  for (uint32_t c = 0; c < 8; ++c)
    for (uint32_t t = 0; t < 8; ++t)
      block.quads[c][t] =
          ((load_dword(low + 32 * (c / 4) + 4 * t) >> (2 * (c % 4))) & in_each_byte(3)) |
          ((load_dword(high + 4 * t) >> c) & in_each_byte(1)) << 2;
}

/// The 8 scales and 8 minima of six bits that Q4_K and Q5_K keep in 12 bytes.
void read_pairs_of_six(const uint8_t* packed, uint8_t* values) {
  for (uint32_t g = 0; g < 4; ++g) {
    values[g] = packed[g] & 63;
    values[8 + g] = packed[4 + g] & 63;
    values[4 + g] = static_cast<uint8_t>((packed[8 + g] & 15) | (packed[g] >> 6) << 4);
    values[12 + g] = static_cast<uint8_t>(packed[8 + g] >> 4 | (packed[4 + g] >> 6) << 4);
  }
}

template <TensorType kType>
void read_q4_or_q5_k(const uint8_t* at, Block& block) {
  constexpr bool kFive = kType == TensorType::kQ5_K;
  block.d = load_half(at);
  block.m = load_half(at + 2);
  read_pairs_of_six(at + 4, block.values);
  const uint8_t* high = at + 16;
  const uint8_t* low = at + (kFive ? 48 : 16);
  for (uint32_t c = 0; c < 8; ++c)
    for (uint32_t t = 0; t < 8; ++t) {
      uint32_t quad = (load_dword(low + 32 * (c / 2) + 4 * t) >> (4 * (c % 2))) & kNibbles;
      if constexpr (kFive) quad |= ((load_dword(high + 4 * t) >> c) & in_each_byte(1)) << 4;
      block.quads[c][t] = quad;
    }
}

void read_q6_k(const uint8_t* at, Block& block) {
  const uint8_t* high = at + 128;
  memcpy(block.values, at + 192, 16);
  block.d = load_half(at + 208);
  for (uint32_t c = 0; c < 8; ++c) {
    const uint32_t half = c / 4;
    const uint32_t quarter = c % 4;
    for (uint32_t t = 0; t < 8; ++t) {
      const uint32_t four =
          load_dword(at + 64 * half + 32 * (quarter % 2) + 4 * t) >> (4 * (quarter / 2));
      const uint32_t two = load_dword(high + 32 * half + 4 * t) >> (2 * quarter);
      block.quads[c][t] = (four & kNibbles) | (two & in_each_byte(3)) << 4;
    }
  }
}

void read_iq4_xs(const uint8_t* at, Block& block) {
  block.d = load_half(at);
  const uint32_t high = load_half(at + 2);
  for (uint32_t g = 0; g < 8; ++g) {
    const uint32_t four = (at[4 + g / 2] >> (4 * (g % 2))) & 15u;
    block.values[g] = static_cast<uint8_t>(four | ((high >> (2 * g)) & 3) << 4);
    read_nibbles(at + 8 + 16 * g, block.quads[g]);
  }
}

template <TensorType kType>
void read_block(const uint8_t* at, Block& block) {
  if constexpr (kType == TensorType::kQ2_K)
    read_q2_k(at, block);
  else if constexpr (kType == TensorType::kQ3_K)
    read_q3_k(at, block);
  else if constexpr (kType == TensorType::kQ4_K || kType == TensorType::kQ5_K)
    read_q4_or_q5_k<kType>(at, block);
  else if constexpr (kType == TensorType::kQ6_K)
    read_q6_k(at, block);
  else if constexpr (kType == TensorType::kIQ4_XS)
    read_iq4_xs(at, block);
  else
    read_small_block<kType>(at, block);
}

/// Packs one panel of which `n_lanes` rows exist.
template <TensorType kType>
void pack_quantised(const uint8_t* rows, uint64_t row_bytes, uint32_t n_lanes, uint32_t n_in,
                    uint8_t* panel) {
  constexpr PanelLayout kLayout = panel_layout(kType);
  const uint64_t block_bytes = row_bytes / (n_in / kLayout.unit);
  uint8_t* codes = panel + kLayout.codes_offset(n_in);
  memset(panel, 0, kLayout.panel_bytes(n_in));
  for (uint32_t u = 0; u < n_in / kLayout.unit; ++u) {
    uint8_t* header = panel + uint64_t{u} * kLayout.header_bytes();
    uint8_t values[16 * 16] = {};
    for (uint32_t lane = 0; lane < n_lanes; ++lane) {
      Block block;
      read_block<kType>(rows + lane * row_bytes + u * block_bytes, block);
      memcpy(header + lane * 2, &block.d, 2);
      if constexpr (kLayout.has_min) memcpy(header + 32 + lane * 2, &block.m, 2);
      for (uint32_t v = 0; v < kLayout.n_values(); ++v) values[v * 16 + lane] = block.values[v];
      for (uint32_t c = 0; c < kLayout.unit / 32; ++c) {
        const uint64_t chunk = u * (kLayout.unit / 32) + c;
        put_codes(kLayout, block.quads[c], codes + chunk * kLayout.chunk_bytes(), lane);
      }
    }
    uint8_t* sub = header + (kLayout.has_min ? 64 : 32);
    if constexpr (kLayout.sub == SubScales::kSigned6 || kLayout.sub == SubScales::kPair6)
      put_six_bits(values, kLayout.n_values(), sub);
    else
      memcpy(sub, values, kLayout.sub_bytes());
  }
}

template <class Element>
void pack_floats(const uint8_t* rows, uint64_t row_bytes, uint32_t n_lanes, uint32_t n_in,
                 uint8_t* panel) {
  memset(panel, 0, panel_bytes(sizeof(Element) == 4 ? TensorType::kF32 : TensorType::kF16, n_in));
  for (uint32_t lane = 0; lane < n_lanes; ++lane)
    for (uint32_t k = 0; k < n_in; ++k)
      memcpy(panel + (uint64_t{k} * kPanelRows + lane) * sizeof(Element),
             rows + lane * row_bytes + k * sizeof(Element), sizeof(Element));
}

void unpack_float_row(const PackedMatrix& matrix, const uint8_t* panel, uint32_t lane,
                      std::span<float> out) {
  for (uint32_t k = 0; k < matrix.n_in; ++k) {
    const uint64_t at = uint64_t{k} * kPanelRows + lane;
    if (matrix.type == TensorType::kF32)
      memcpy(&out[k], panel + at * 4, 4);
    else if (matrix.type == TensorType::kF16)
      out[k] = f16_to_f32(load_half(panel + at * 2));
    else
      out[k] = bf16_to_f32(load_half(panel + at * 2));
  }
}

void unpack_quantised_row(const PackedMatrix& matrix, const uint8_t* panel, uint32_t lane,
                          std::span<float> out) {
  const PanelLayout layout = panel_layout(matrix.type);
  const uint8_t* codes = panel + layout.codes_offset(matrix.n_in);
  const int32_t zero = layout.has_min ? 0 : int32_t{1} << layout.zero_shift;
  for (uint32_t u = 0; u < matrix.n_in / layout.unit; ++u) {
    float scales[16];
    float minima[16];
    get_scales(layout, panel + uint64_t{u} * layout.header_bytes(), lane, scales, minima);
    for (uint32_t c = 0; c < layout.unit / 32; ++c) {
      uint32_t quads[8];
      get_codes(layout, codes + uint64_t{u * (layout.unit / 32) + c} * layout.chunk_bytes(), lane,
                quads);
      for (uint32_t i = 0; i < 32; ++i) {
        const uint32_t group = (c * 32 + i) / layout.group;
        const auto code = static_cast<int32_t>((quads[i / 4] >> (8 * (i % 4))) & 255);
        const float product = scales[group] * static_cast<float>(code - zero);
        out[u * layout.unit + c * 32 + i] = layout.has_min ? product - minima[group] : product;
      }
    }
  }
}

}  // namespace

uint64_t panel_bytes(TensorType type, uint32_t n_in) {
  const auto& info = tensor_type_info(type);
  STRATA_CHECK(n_in % info.block_elements == 0, "n_in=%u block=%u", n_in, info.block_elements);
  if (is_float_type(type)) return (uint64_t{n_in} * kPanelRows * info.block_bytes + 63) / 64 * 64;
  return panel_layout(type).panel_bytes(n_in);
}

void pack_panel_by_lanes(TensorType type, const uint8_t* rows, uint64_t row_bytes, uint32_t n_lanes,
                         uint32_t n_in, uint8_t* panel) {
  switch (type) {
    case TensorType::kF32:
      return pack_floats<uint32_t>(rows, row_bytes, n_lanes, n_in, panel);
    case TensorType::kF16:
    case TensorType::kBF16:
      return pack_floats<uint16_t>(rows, row_bytes, n_lanes, n_in, panel);
    case TensorType::kQ4_0:
      return pack_quantised<TensorType::kQ4_0>(rows, row_bytes, n_lanes, n_in, panel);
    case TensorType::kQ4_1:
      return pack_quantised<TensorType::kQ4_1>(rows, row_bytes, n_lanes, n_in, panel);
    case TensorType::kQ5_0:
      return pack_quantised<TensorType::kQ5_0>(rows, row_bytes, n_lanes, n_in, panel);
    case TensorType::kQ5_1:
      return pack_quantised<TensorType::kQ5_1>(rows, row_bytes, n_lanes, n_in, panel);
    case TensorType::kQ8_0:
      return pack_quantised<TensorType::kQ8_0>(rows, row_bytes, n_lanes, n_in, panel);
    case TensorType::kQ2_K:
      return pack_quantised<TensorType::kQ2_K>(rows, row_bytes, n_lanes, n_in, panel);
    case TensorType::kQ3_K:
      return pack_quantised<TensorType::kQ3_K>(rows, row_bytes, n_lanes, n_in, panel);
    case TensorType::kQ4_K:
      return pack_quantised<TensorType::kQ4_K>(rows, row_bytes, n_lanes, n_in, panel);
    case TensorType::kQ5_K:
      return pack_quantised<TensorType::kQ5_K>(rows, row_bytes, n_lanes, n_in, panel);
    case TensorType::kQ6_K:
      return pack_quantised<TensorType::kQ6_K>(rows, row_bytes, n_lanes, n_in, panel);
    case TensorType::kIQ4_NL:
      return pack_quantised<TensorType::kIQ4_NL>(rows, row_bytes, n_lanes, n_in, panel);
    case TensorType::kIQ4_XS:
      return pack_quantised<TensorType::kIQ4_XS>(rows, row_bytes, n_lanes, n_in, panel);
  }
  STRATA_CHECK(false, "tensor type %u", static_cast<uint32_t>(type));
}

void pack_panels(TensorType type, uint32_t n_out, uint32_t n_in, uint32_t panel_begin,
                 uint32_t panel_end, std::span<const std::byte> rows, std::byte* out) {
  const uint64_t first_row = uint64_t{panel_begin} * kPanelRows;
  const uint64_t last_row = std::min<uint64_t>(uint64_t{panel_end} * kPanelRows, n_out);
  const uint64_t row_bytes = tensor_row_bytes(type, n_in);
  STRATA_CHECK(panel_begin <= panel_end && first_row <= last_row, "panels [%u, %u) of %u rows",
               panel_begin, panel_end, n_out);
  STRATA_CHECK(rows.size() == (last_row - first_row) * row_bytes, "%zu bytes for %lu rows of %lu",
               rows.size(), static_cast<unsigned long>(last_row - first_row),
               static_cast<unsigned long>(row_bytes));
  STRATA_CHECK(reinterpret_cast<uintptr_t>(out) % 64 == 0, "panels at %p", static_cast<void*>(out));
  const uint64_t stride = panel_bytes(type, n_in);
  const bool can_turn = !is_float_type(type) || n_in % kTurnedFloats == 0;
  const auto* source = reinterpret_cast<const uint8_t*>(rows.data());
  auto* target = reinterpret_cast<uint8_t*>(out);
  for (uint64_t row = first_row; row < last_row;
       row += kPanelRows, target += stride, source += kPanelRows * row_bytes) {
    const auto n_lanes = static_cast<uint32_t>(std::min<uint64_t>(kPanelRows, last_row - row));
    if (n_lanes == kPanelRows && can_turn)
      pack_panel_turned(type, source, row_bytes, n_in, target);
    else
      pack_panel_by_lanes(type, source, row_bytes, n_lanes, n_in, target);
  }
  _mm_sfence();  // before another thread is told of the panels, which lie past the caches
}

void unpack_row(const PackedMatrix& matrix, uint32_t row, std::span<float> out) {
  STRATA_CHECK(row < matrix.n_out, "row=%u n_out=%u", row, matrix.n_out);
  STRATA_CHECK(out.size() == matrix.n_in, "out=%zu n_in=%u", out.size(), matrix.n_in);
  const auto* panel =
      reinterpret_cast<const uint8_t*>(matrix.bytes) + row / kPanelRows * matrix.panel_bytes;
  if (is_float_type(matrix.type))
    unpack_float_row(matrix, panel, row % kPanelRows, out);
  else
    unpack_quantised_row(matrix, panel, row % kPanelRows, out);
}

}  // namespace strata::cpu_attn
