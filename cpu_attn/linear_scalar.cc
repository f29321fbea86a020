// cpu_attn/linear_scalar.cc - linear layers in plain C++: for CPUs without AVX2, and the plainest
// statement of the arithmetic.
//
// Formula  quantised: acc = 0; for each group g of inputs in order:
//              acc = fma(float(sum of (code - zero) * q over g), scale_g * dx, acc)
//              acc = fma(minimum_g, dx * float(neg_sum_g), acc)          where the type has minima
//          float types: acc = fma(w_k, x_k, acc) for k in order.
// The integer sums are exact and every float operation is written out, so the vector kernels, which
// follow the same order, give the same bits (tests/cpu_attn/linear_test.cc compares them with ==).
// Shapes   base/kernel_table.h, LinearArgs.   Threads  callers give disjoint panels.
// Bytes    every panel asked for is read once per kRowTile rows; n_rows * n_in activations per
// panel from the cache.
#include <math.h>
#include <string.h>

#include "base/check.h"
#include "base/half.h"
#include "cpu_attn/linear.h"

namespace strata::cpu_attn {
namespace {

#include "base/panel_layout.inc"

#include "cpu_attn/pack_plain.inc"

#include "cpu_attn/quantize_scale.inc"

constexpr uint32_t kRowTile = 32;

/// Rounds to nearest even by letting the adder drop the fraction; |x| < 2^22.
float round_to_even(float x) {
  const float shifted = x + 12582912.0f;
  return shifted - 12582912.0f;
}

void quantize_group(const float* x, int8_t* q, float* scale, int32_t* neg_sums) {
  // Bits of |x| order as integers do, and a NaN is above every number, so that it is not lost.
  uint32_t max_bits = 0;
  for (uint32_t i = 0; i < kActGroup; ++i) {
    uint32_t bits;
    memcpy(&bits, x + i, 4);
    bits &= 0x7fffffffu;
    max_bits = bits > max_bits ? bits : max_bits;
  }
  float to_code;
  codes_per_unit(static_cast<int32_t>(max_bits), &to_code, scale);
  for (uint32_t h = 0; h < 2; ++h) {
    int32_t sum = 0;
    for (uint32_t i = h * kActHalfGroup; i < (h + 1) * kActHalfGroup; ++i) {
      const float code = x[i] * to_code;
      q[i] = fabsf(code) < 128.0f ? static_cast<int8_t>(round_to_even(code)) : int8_t{-128};
      sum += q[i];
    }
    neg_sums[h] = -sum;
  }
}

void quantize_rows(const float* x, uint32_t n_rows, uint32_t n_in, QuantRows out) {
  STRATA_CHECK(n_in % kActGroup == 0, "n_in=%u", n_in);
  const uint64_t n_groups = uint64_t{n_rows} * (n_in / kActGroup);
  for (uint64_t g = 0; g < n_groups; ++g)
    quantize_group(x + g * kActGroup, out.q + g * kActGroup, out.scales + g, out.neg_sums + 2 * g);
}

/// A unit of 16 lanes: codes less their zero point, effective scales and minima.
struct PlainUnit {
  int16_t codes[kPanelRows][256];
  float scales[kPanelRows][16];
  float minima[kPanelRows][16];
};

void unpack_unit(const PanelLayout& layout, const uint8_t* panel, uint32_t n_in, uint32_t u,
                 PlainUnit& unit) {
  const uint32_t n_chunks = layout.unit / 32;
  const uint8_t* codes =
      panel + layout.codes_offset(n_in) + uint64_t{u} * n_chunks * layout.chunk_bytes();
  const uint32_t zero = layout.has_min ? 0 : 1u << layout.zero_shift;
  for (uint32_t lane = 0; lane < kPanelRows; ++lane) {
    get_scales(layout, panel + uint64_t{u} * layout.header_bytes(), lane, unit.scales[lane],
               unit.minima[lane]);
    for (uint32_t c = 0; c < n_chunks; ++c) {
      uint32_t quads[8];
      get_codes(layout, codes + c * layout.chunk_bytes(), lane, quads);
      for (uint32_t i = 0; i < 32; ++i)
        unit.codes[lane][c * 32 + i] =
            static_cast<int16_t>(((quads[i / 4] >> (8 * (i % 4))) & 255) - zero);
    }
  }
}

/// One row's share of a unit, for 16 lanes.
void add_unit(const PanelLayout& layout, const PlainUnit& unit, const int8_t* q,
              const float* scales, const int32_t* neg_sums, float* acc) {
  int16_t wide[256];
  for (uint32_t i = 0; i < layout.unit; ++i) wide[i] = q[i];
  for (uint32_t lane = 0; lane < kPanelRows; ++lane)
    for (uint32_t g = 0; g < layout.unit / layout.group; ++g) {
      const int16_t* codes = unit.codes[lane] + g * layout.group;
      const int16_t* x = wide + g * layout.group;
      int32_t dot = 0;
      for (uint32_t i = 0; i < layout.group; ++i) dot += int32_t{codes[i]} * int32_t{x[i]};
      const float dx = scales[g * layout.group / kActGroup];
      acc[lane] = fmaf(static_cast<float>(dot), unit.scales[lane][g] * dx, acc[lane]);
      if (layout.has_min) {
        const int32_t sum =
            layout.group == 32 ? neg_sums[2 * g] + neg_sums[2 * g + 1] : neg_sums[g];
        acc[lane] = fmaf(unit.minima[lane][g], dx * static_cast<float>(sum), acc[lane]);
      }
    }
}

void store_lanes(const LinearArgs& args, uint32_t panel_idx, uint32_t row, const float* acc) {
  const uint32_t first = panel_idx * kPanelRows;
  const uint32_t n = args.w.n_out - first < kPanelRows ? args.w.n_out - first : kPanelRows;
  memcpy(args.out + row * args.out_stride + first, acc, n * sizeof(float));
}

void quantised_panel(const LinearArgs& args, uint32_t panel_idx) {
  const PanelLayout layout = panel_layout(args.w.type);
  const uint32_t n_in = args.w.n_in;
  const auto* panel =
      reinterpret_cast<const uint8_t*>(args.w.bytes) + panel_idx * args.w.panel_bytes;
  PlainUnit unit;
  for (uint32_t first = 0; first < args.n_rows; first += kRowTile) {
    const uint32_t n = args.n_rows - first < kRowTile ? args.n_rows - first : kRowTile;
    float acc[kRowTile][kPanelRows] = {};
    for (uint32_t u = 0; u < n_in / layout.unit; ++u) {
      unpack_unit(layout, panel, n_in, u, unit);
      for (uint32_t r = 0; r < n; ++r) {
        const uint64_t at = uint64_t{first + r} * n_in + uint64_t{u} * layout.unit;
        add_unit(layout, unit, args.quant.q + at, args.quant.scales + at / kActGroup,
                 args.quant.neg_sums + at / kActHalfGroup, acc[r]);
      }
    }
    for (uint32_t r = 0; r < n; ++r) store_lanes(args, panel_idx, first + r, acc[r]);
  }
}

void float_panel(const LinearArgs& args, uint32_t panel_idx) {
  const auto* panel =
      reinterpret_cast<const uint8_t*>(args.w.bytes) + panel_idx * args.w.panel_bytes;
  for (uint32_t first = 0; first < args.n_rows; first += kRowTile) {
    const uint32_t n = args.n_rows - first < kRowTile ? args.n_rows - first : kRowTile;
    float acc[kRowTile][kPanelRows] = {};
    for (uint32_t k = 0; k < args.w.n_in; ++k) {
      float w[kPanelRows];
      for (uint32_t lane = 0; lane < kPanelRows; ++lane) {
        const uint64_t at = uint64_t{k} * kPanelRows + lane;
        if (args.w.type == TensorType::kF32)
          memcpy(&w[lane], panel + at * 4, 4);
        else if (args.w.type == TensorType::kF16)
          w[lane] = f16_to_f32(load_half(panel + at * 2));
        else
          w[lane] = bf16_to_f32(load_half(panel + at * 2));
      }
      for (uint32_t r = 0; r < n; ++r) {
        const float x = args.x[uint64_t{first + r} * args.w.n_in + k];
        for (uint32_t lane = 0; lane < kPanelRows; ++lane)
          acc[r][lane] = fmaf(w[lane], x, acc[r][lane]);
      }
    }
    for (uint32_t r = 0; r < n; ++r) store_lanes(args, panel_idx, first + r, acc[r]);
  }
}

void linear(const LinearArgs& args) {
  STRATA_CHECK(args.panel_begin <= args.panel_end &&
                   args.panel_end <= (args.w.n_out + kPanelRows - 1) / kPanelRows,
               "panels [%u, %u) of n_out=%u", args.panel_begin, args.panel_end, args.w.n_out);
  STRATA_CHECK(args.out_stride >= args.w.n_out, "out_stride=%lu n_out=%u",
               static_cast<unsigned long>(args.out_stride), args.w.n_out);
  for (uint32_t p = args.panel_begin; p < args.panel_end; ++p)
    is_float_type(args.w.type) ? float_panel(args, p) : quantised_panel(args, p);
}

}  // namespace

void fill_linear_scalar(KernelTable& table) {
  table.quantize_rows = quantize_rows;
  table.linear = linear;
}

}  // namespace strata::cpu_attn
