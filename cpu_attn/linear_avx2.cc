// cpu_attn/linear_avx2.cc - linear layers with AVX2, FMA and F16C: one vector is half of a panel's
// 16 lanes (a slice). The bodies are linear_quant.inc and linear_float.inc; here is the vector
// layer they are written over.
//
// Exact products without VNNI: vpmaddubsw adds two products of an unsigned and a signed byte in 16
// bits and saturates. Codes of b bits times activations of at most 127 stay below 32768 for 2 *
// (2^b - 1) * 127 * n, so n products of a lane are added in 16 bits before they are widened: n = 8,
// 4, 2 for b = 4 (or less), 5, 6. Codes of 8 bits are used as signed bytes: |code| <= 128 times an
// activation that takes the code's sign is at most 2 * 128 * 127 = 32512, which is exact too.
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
constexpr uint32_t kLanes = 8;
using VecF = __m256;
using VecI = __m256i;

inline __m256i first_lanes(int32_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline void prefetch_l2(const uint8_t* at) { __builtin_prefetch(at, 0, 2); }
inline VecF zero_f() { return _mm256_setzero_ps(); }
inline VecF each_f(float x) { return _mm256_set1_ps(x); }
inline VecF load_f(const float* at) { return _mm256_loadu_ps(at); }
inline VecF load_f16(const void* at) {
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(at)));
}
inline VecF load_bf16(const void* at) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(at)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline VecF load_first_f(const float* at, int32_t n) {
  return _mm256_maskload_ps(at, first_lanes(n));
}
inline void store_f(float* at, VecF v) { _mm256_storeu_ps(at, v); }
inline void store_first_f(float* at, VecF v, int32_t n) {
  _mm256_maskstore_ps(at, first_lanes(n), v);
}
inline VecF mul_f(VecF a, VecF b) { return _mm256_mul_ps(a, b); }
inline VecF fma_f(VecF a, VecF b, VecF c) { return _mm256_fmadd_ps(a, b, c); }
inline VecF negate_f(VecF a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
inline VecF to_f(VecI a) { return _mm256_cvtepi32_ps(a); }
/// Lanes 0 0 1 1 2 2 .. of the lower and of the upper half.
inline VecF twice_low_f(VecF a) {
  return _mm256_permutevar8x32_ps(a, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}
inline VecF twice_high_f(VecF a) {
  return _mm256_permutevar8x32_ps(a, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7));
}

inline VecI each_i(int32_t x) { return _mm256_set1_epi32(x); }
inline VecI each_byte(int8_t x) { return _mm256_set1_epi8(x); }
inline VecI load_i(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
inline VecI load_first_i(const int32_t* at, int32_t n) {
  return _mm256_maskload_epi32(at, first_lanes(n));
}
inline VecI load_u8_i(const void* at) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(at)));
}
inline VecI load_i8_i(const void* at) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(at)));
}
inline void store_i(void* at, VecI v) { _mm256_storeu_si256(static_cast<__m256i*>(at), v); }
inline VecI add_i(VecI a, VecI b) { return _mm256_add_epi32(a, b); }
inline VecI and_i(VecI a, VecI b) { return _mm256_and_si256(a, b); }
inline VecI and_or_i(VecI a, VecI mask, VecI other) {
  return _mm256_or_si256(_mm256_and_si256(a, mask), other);
}
template <uint32_t kBy>
inline VecI shift_left_i(VecI a) {
  return _mm256_slli_epi32(a, kBy);
}
template <uint32_t kBy>
inline VecI shift_right_i(VecI a) {
  return _mm256_srli_epi32(a, kBy);
}
template <uint32_t kBy>
inline VecI shift_left_16(VecI a) {
  return _mm256_slli_epi16(a, kBy);
}
template <uint32_t kBy>
inline VecI shift_right_16(VecI a) {
  return _mm256_srli_epi16(a, kBy);
}
/// The sums of neighbours of the first n <= 16 integers at `at`.
inline VecI load_pair_sums_i(const int32_t* at, int32_t n) {
  const VecI crossed = _mm256_hadd_epi32(load_first_i(at, n), load_first_i(at + 8, n - 8));
  return _mm256_permute4x64_epi64(crossed, 0xD8);
}

// Codes of 8 bits are signed bytes, narrower ones unsigned.
constexpr bool kWideCodesAreSigned = true;
/// As they are unpacked: the zero point is in the sums.
inline VecI unpacked_codes(VecI codes, uint32_t /*zero_shift*/) { return codes; }
inline VecI wide_code(VecI resting) { return _mm256_xor_si256(resting, _mm256_set1_epi8(-128)); }
inline VecI table_code(VecI nibbles) {
  const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kCodeTable));
  return wide_code(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), nibbles));
}

/// Sums of products of four codes and four activations per lane.
constexpr bool kDotKnowsBits = true;
template <uint32_t kBits>
struct Dot {
  static constexpr uint32_t kRun = kBits <= 4   ? 8
                                   : kBits == 5 ? 4
                                   : kBits == 6 ? 2
                                                : 1;  // quads added in 16 bits
  VecI sum;
  VecI narrow;
  inline void start(int32_t first) { sum = each_i(first); }
  /// Place kPlace of a group's quads.
  template <uint32_t kPlace, bool kIsLast>
  inline void add(VecI codes, int32_t activations) {
    const VecI x = each_i(activations);
    VecI products;
    if constexpr (kBits == 8)
      products = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes));
    else
      products = _mm256_maddubs_epi16(codes, x);
    narrow = kPlace % kRun == 0 ? products : _mm256_add_epi16(narrow, products);
    if constexpr (kIsLast || kPlace % kRun == kRun - 1)
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(narrow, _mm256_set1_epi16(1)));
  }
  inline VecI total() const { return sum; }
};

inline void quantize_group(const float* x, int8_t* q, float* scale, int32_t* neg_sums) {
  // Bits of |x| order as integers do, and a NaN is above every number, so that it is not lost.
  const __m256i magnitude = _mm256_set1_epi32(INT32_MAX);
  __m256 values[4];
  __m256i largest = _mm256_setzero_si256();
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    values[i] = _mm256_loadu_ps(x + 8 * i);
    largest =
        _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(values[i]), magnitude));
  }
  __m128i four =
      _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xB1));
  float to_code;
  codes_per_unit(_mm_cvtsi128_si32(four), &to_code, scale);
  __m256i wide[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)  // what is not a number or not finite converts to INT32_MIN and ends
                               // as -128; its scale says so too
    wide[i] =
        _mm256_max_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(values[i], _mm256_set1_ps(to_code))),
                         _mm256_set1_epi32(-128));
  const __m256i low = _mm256_packs_epi32(wide[0], wide[1]);
  const __m256i high = _mm256_packs_epi32(wide[2], wide[3]);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(q),
                      _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order));
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i pairs =
      _mm256_hadd_epi32(_mm256_madd_epi16(low, ones), _mm256_madd_epi16(high, ones));
  const __m256i fours = _mm256_hadd_epi32(pairs, pairs);
  const __m128i halves =
      _mm_add_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
  neg_sums[0] = -_mm_extract_epi32(halves, 0);
  neg_sums[1] = -_mm_extract_epi32(halves, 1);
}

constexpr uint32_t kFusedRows = kFewRows;  // that decode keeps in registers while it unpacks
// 4 f32 sums, 4 integer sums, 4 of 16 bits, one vector of codes, one of ones.
constexpr uint32_t kQuantTileRows = 4;
constexpr uint32_t kQuantTilePanels = 1;
constexpr uint32_t kFloatTileRows = 6;  // by two slices: 12 sums, two weights, one activation

#include "cpu_attn/linear_quant.inc"

#include "cpu_attn/linear_float.inc"

}  // namespace

void fill_linear_avx2(KernelTable& table) {
  table.quantize_rows = quantize_rows;
  table.linear = linear;
}

}  // namespace strata::cpu_attn
