// cpu_attn/linear_avx512.cc - linear layers with AVX-512 F, BW, DQ, VL and VNNI: one vector is the
// 16 lanes of a panel. The bodies are linear_quant.inc and linear_float.inc; here is the vector
// layer they are written over. BF16 instructions are not used: vdpbf16ps adds pairs of products
// with its own rounding and flushes denormals, so its results would not be those of the f32 order
// that every other path keeps (law L1).

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

// ---- The vector layer: kLanes lanes of 32 bits, or of four bytes.
constexpr uint32_t kLanes = 16;
using VecF = __m512;
using VecI = __m512i;

inline __mmask16 first_lanes(int32_t n) {
  return static_cast<__mmask16>(_bzhi_u32(0xffff, n > 0 ? static_cast<uint32_t>(n) : 0));
}

inline void prefetch_l2(const uint8_t* at) { __builtin_prefetch(at, 0, 2); }
inline VecF zero_f() { return _mm512_setzero_ps(); }
inline VecF each_f(float x) { return _mm512_set1_ps(x); }
inline VecF load_f(const float* at) { return _mm512_loadu_ps(at); }
inline VecF load_f16(const void* at) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(at)));
}
inline VecF load_bf16(const void* at) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(at)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline VecF load_first_f(const float* at, int32_t n) {
  return _mm512_maskz_loadu_ps(first_lanes(n), at);
}
inline void store_f(float* at, VecF v) { _mm512_storeu_ps(at, v); }
inline void store_first_f(float* at, VecF v, int32_t n) {
  _mm512_mask_storeu_ps(at, first_lanes(n), v);
}
inline VecF mul_f(VecF a, VecF b) { return _mm512_mul_ps(a, b); }
inline VecF fma_f(VecF a, VecF b, VecF c) { return _mm512_fmadd_ps(a, b, c); }
inline VecF negate_f(VecF a) {
  return _mm512_castsi512_ps(
      _mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN)));
}
inline VecF to_f(VecI a) { return _mm512_cvtepi32_ps(a); }
/// Lanes 0 0 1 1 2 2 .. of the lower and of the upper half.
inline VecF twice_low_f(VecF a) {
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7),
                               a);
}
inline VecF twice_high_f(VecF a) {
  return _mm512_permutexvar_ps(
      _mm512_setr_epi32(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15), a);
}

inline VecI each_i(int32_t x) { return _mm512_set1_epi32(x); }
inline VecI each_byte(int8_t x) { return _mm512_set1_epi8(x); }
inline VecI load_i(const void* at) { return _mm512_loadu_si512(at); }
inline VecI load_first_i(const int32_t* at, int32_t n) {
  return _mm512_maskz_loadu_epi32(first_lanes(n), at);
}
inline VecI load_u8_i(const void* at) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(at)));
}
inline VecI load_i8_i(const void* at) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(at)));
}
inline void store_i(void* at, VecI v) { _mm512_storeu_si512(at, v); }
inline VecI add_i(VecI a, VecI b) { return _mm512_add_epi32(a, b); }
inline VecI and_i(VecI a, VecI b) { return _mm512_and_si512(a, b); }
inline VecI and_or_i(VecI a, VecI mask, VecI other) {
  return _mm512_ternarylogic_epi32(a, mask, other, 0xEA);
}
template <uint32_t kBy>
inline VecI shift_left_i(VecI a) {
  return _mm512_slli_epi32(a, kBy);
}
template <uint32_t kBy>
inline VecI shift_right_i(VecI a) {
  return _mm512_srli_epi32(a, kBy);
}
template <uint32_t kBy>
inline VecI shift_left_16(VecI a) {
  return _mm512_slli_epi16(a, kBy);
}
template <uint32_t kBy>
inline VecI shift_right_16(VecI a) {
  return _mm512_srli_epi16(a, kBy);
}
/// The sums of neighbours of the first n <= 32 integers at `at`.
inline VecI load_pair_sums_i(const int32_t* at, int32_t n) {
  const VecI low = load_first_i(at, n);
  const VecI high = load_first_i(at + 16, n - 16);
  const VecI even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const VecI odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return _mm512_add_epi32(_mm512_permutex2var_epi32(low, even, high),
                          _mm512_permutex2var_epi32(low, odd, high));
}

// Codes are unsigned bytes, those of 8 bits as they rest.
constexpr bool kWideCodesAreSigned = false;
inline VecI wide_code(VecI resting) { return resting; }
inline VecI table_code(VecI nibbles) {
  const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kCodeTable));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), nibbles);
}

/// Sums of products of four codes and four activations per lane.
constexpr bool kDotKnowsBits = false;
template <uint32_t kBits>
struct Dot {
  VecI sum;
  inline void start(int32_t first) { sum = each_i(first); }
  template <uint32_t kPlace, bool kIsLast>
  inline void add(VecI codes, int32_t activations) {
    sum = _mm512_dpbusd_epi32(sum, codes, each_i(activations));
  }
  inline VecI total() const { return sum; }
};

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

constexpr uint32_t kFusedRows = kFewRows;  // that decode keeps in registers while it unpacks
// By two panels: 12 f32 and 12 integer sums, two vectors of codes, a broadcast.
constexpr uint32_t kQuantTileRows = 6;
constexpr uint32_t kQuantTilePanels = 2;
// By two panels: 24 sums, two weights, broadcasts from memory.
constexpr uint32_t kFloatTileRows = 12;

#include "cpu_attn/linear_quant.inc"

#include "cpu_attn/linear_float.inc"

}  // namespace

void fill_linear_avx512(KernelTable& table) {
  table.quantize_rows = quantize_rows;
  table.linear = linear;
}

}  // namespace strata::cpu_attn
