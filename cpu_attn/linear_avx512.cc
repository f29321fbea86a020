// cpu_attn/linear_avx512.cc - linear layers with AVX-512 F, BW, DQ, VL and VNNI: one vector is the
// 16 lanes of a panel. The bodies are linear_quant.inc and linear_float.inc, the vector layer they
// are written over is linear_vec_avx512.inc. BF16 instructions are not used: vdpbf16ps adds pairs
// of products with its own rounding and flushes denormals, so its results would not be those of the
// f32 order that every other path keeps (law L1).

// The compiler's own header leaves a vector uninitialised on purpose and g++ 12 warns of it (GCC
// bug 105593).
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "cpu_attn/linear.h"

namespace strata::cpu_attn {
namespace {

#include "base/panel_layout.inc"

#include "cpu_attn/quantize_scale.inc"

#include "cpu_attn/linear_vec_avx512.inc"

inline void quantize_group(const float* x, int8_t* q, float* scale, int32_t* neg_sums) {
  const __m512 x0 = _mm512_loadu_ps(x);
  const __m512 x1 = _mm512_loadu_ps(x + 16);
  // Bits of |x| order as integers do, and a NaN is above every number, so that it is not lost.
  const __m512i magnitude = _mm512_set1_epi32(INT32_MAX);
  const int32_t max_bits = _mm512_reduce_max_epi32(
      _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(x0), magnitude),
                       _mm512_and_si512(_mm512_castps_si512(x1), magnitude)));
  float to_code;
  codes_per_unit(max_bits, &to_code, scale);
  // What is not a number or not finite converts to INT32_MIN and ends as -128; its scale says so
  // too.
  const __m512i lowest = _mm512_set1_epi32(-128);
  const __m512i q0 =
      _mm512_max_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(x0, _mm512_set1_ps(to_code))), lowest);
  const __m512i q1 =
      _mm512_max_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(x1, _mm512_set1_ps(to_code))), lowest);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(q0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 16), _mm512_cvtepi32_epi8(q1));
  neg_sums[0] = -_mm512_reduce_add_epi32(q0);
  neg_sums[1] = -_mm512_reduce_add_epi32(q1);
}

/// As they are unpacked: the zero point is in the sums.
inline VecI unpacked_codes(VecI codes, uint32_t /*zero_shift*/) { return codes; }
constexpr uint32_t kFusedRows = kFewRows;  // that decode keeps in registers while it unpacks
// By two panels: 12 f32 and 12 integer sums, two vectors of codes, a broadcast.
constexpr uint32_t kQuantTileRows = 6;
constexpr uint32_t kQuantTilePanels = 2;
// By two panels: 24 sums, two weights, broadcasts from memory.
constexpr uint32_t kFloatTileRows = 12;

#include "cpu_attn/linear_quant.inc"

#include "cpu_attn/linear_float.inc"

}  // namespace

void linear_avx512(const LinearArgs& args) { linear(args); }

void fill_linear_avx512(KernelTable& table) {
  table.quantize_rows = quantize_rows;
  table.linear = linear_avx512;
  table.has_tiles = false;
}

}  // namespace strata::cpu_attn
