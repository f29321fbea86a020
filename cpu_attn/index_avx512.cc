// cpu_attn/index_avx512.cc - kernels of retrieval, instruction set "avx512" without BF16 and VBMI.
// A table of 64 bytes is four quarters of 16, each looked up by vpshufb with the code's low four
// bits; bits 4 and 5 of the code choose among the four by masks.

// The compiler's own header leaves a vector uninitialised on purpose and g++ 12 warns of it (GCC
// bug 105593).
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "base/key_rotation.h"
#include "cpu_attn/index.h"

namespace strata::cpu_attn {
namespace {

#include "cpu_attn/vec_avx512.inc"

#include "cpu_attn/repeat.inc"

#include "cpu_attn/vec_exp.inc"

#include "cpu_attn/index_encode.inc"

#include "cpu_attn/index_rabitq_encode.inc"

#include "cpu_attn/index_cluster_encode.inc"

#include "cpu_attn/index_pq_weight.inc"

#include "cpu_attn/index_pq_query.inc"

#include "cpu_attn/index_pool.inc"

#include "cpu_attn/index_tail.inc"

#include "cpu_attn/index_digest_wide.inc"

#include "cpu_attn/index_digest.inc"

constexpr uint32_t kScanQueries = 8;

struct Codes {
  __m512i low;
  __mmask64 bit4, bit5;
};
STRATA_VEC Codes load_codes(const std::byte* at) {
  const __m512i codes = _mm512_loadu_si512(at);
  return {_mm512_and_si512(codes, _mm512_set1_epi8(15)),
          _mm512_test_epi8_mask(codes, _mm512_set1_epi8(16)),
          _mm512_test_epi8_mask(codes, _mm512_set1_epi8(32))};
}

STRATA_VEC __m512i quarter(const uint8_t* table, uint32_t i) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table) + i));
}

STRATA_VEC __m512i look_up(const uint8_t* table, const Codes& codes) {
  const __m512i first = _mm512_shuffle_epi8(quarter(table, 0), codes.low);
  const __m512i third = _mm512_shuffle_epi8(quarter(table, 2), codes.low);
  return _mm512_mask_blend_epi8(
      codes.bit5, _mm512_mask_shuffle_epi8(first, codes.bit4, quarter(table, 1), codes.low),
      _mm512_mask_shuffle_epi8(third, codes.bit4, quarter(table, 3), codes.low));
}

#include "cpu_attn/index_pq_avx512.inc"

#include "cpu_attn/index_pq_scan.inc"

// ---- What index_rabitq_scan.inc asks for, in vectors of 16 words.
typedef uint32_t Words __attribute__((vector_size(64)));
/// In a register from here on: gcc 12 would load a word again for each of its eight quads, and two
/// lines at once for each query's codes, where a Zen 4 loads one vector in a cycle.
STRATA_VEC Words load_words(const std::byte* at) {
  auto words = (Words)_mm512_loadu_si512(at);
  asm("" : "+v"(words));
  return words;
}
/// The bits of `of` that the mask has, and the others of `others`.
STRATA_VEC Words bits_or(uint32_t mask, Words of, Words others) {
  return (Words)_mm512_ternarylogic_epi32(_mm512_set1_epi32(static_cast<int32_t>(mask)),
                                          (__m512i)of, (__m512i)others, 0xca);
}
constexpr uint32_t kPairsAtOnce = 2;

struct Products {
  __m512i all;
  STRATA_VEC void clear() { all = _mm512_setzero_si512(); }
  STRATA_VEC void add(Words codes, uint32_t query) {
    all = _mm512_dpbusd_epi32(all, (__m512i)codes, _mm512_set1_epi32(static_cast<int32_t>(query)));
  }
  STRATA_VEC void end_group() {}
  STRATA_VEC Vec values() const { return _mm512_maskz_cvtepi32_ps(0xffff, all); }
};

STRATA_VEC Vec weights_below(Vec down) {
  return _mm512_castsi512_ps(
      _mm512_sub_epi32(_mm512_set1_epi32(kBitsOfOne), _mm512_cvttps_epi32(down)));
}

/// Bits of each lane above those of one.
STRATA_VEC Vec bits_above_one(Vec weights) {
  return _mm512_maskz_cvtepi32_ps(
      0xffff, _mm512_sub_epi32(_mm512_castps_si512(weights), _mm512_set1_epi32(kBitsOfOne)));
}

using Centres = __m256i;
STRATA_VEC Centres load_centres(const std::byte* at) {
  return _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)),
                          _mm256_set1_epi8(0x7f));
}
struct CentreProducts {
  __m256i blocks;
  STRATA_VEC void start(int32_t sum) { blocks = _mm256_set1_epi32(sum); }
  STRATA_VEC void add(Centres seven, uint32_t query) {
    blocks = _mm256_dpbusd_epi32(blocks, seven, _mm256_set1_epi32(static_cast<int32_t>(query)));
  }
  STRATA_VEC Vec values(uint32_t) const {
    return _mm512_zextps256_ps512(_mm256_cvtepi32_ps(blocks));
  }
};

/// Of a line, f(both keys' lanes) for both. In both halves the even key's lanes are the first
/// operand: what f gives of a NaN depends on the order.
template <class F>
STRATA_VEC void of_both_keys(Vec* line, const F& f) {
  line[0] = f(_mm512_maskz_shuffle_f32x4(0xffff, line[0], line[0], 0x44),
              _mm512_maskz_shuffle_f32x4(0xffff, line[0], line[0], 0xee));
}
/// The eight blocks' numbers, for both keys of a line.
STRATA_VEC Vec load_of_blocks(const float* of_blocks, uint32_t) {
  return _mm512_maskz_broadcast_f32x8(0xffff, _mm256_loadu_ps(of_blocks));
}
STRATA_VEC void store_blocks(float* out, uint32_t, Vec v) {
  _mm256_storeu_ps(out, _mm512_castps512_ps256(v));
}

#include "cpu_attn/index_rabitq_scan.inc"

/// The sum of 32 products, what index_cluster_scan.inc asks for besides.
STRATA_VEC int32_t product_of_group(const std::byte* seven_bits, const int8_t* codes) {
  const __m256i seven = _mm256_and_si256(
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(seven_bits)), _mm256_set1_epi8(0x7f));
  const __m256i fours = _mm256_dpbusd_epi32(
      _mm256_setzero_si256(), seven, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
  alignas(32) int32_t sums[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(sums), fours);
  int32_t sum = 0;
  for (const int32_t of_four : sums) sum += of_four;
  return sum;
}

#include "cpu_attn/index_cluster_scan.inc"

#include "cpu_attn/index_sparq_scan.inc"

}  // namespace

void fill_index_avx512(KernelTable& table) {
  table.index = {load_k,     digest_scores, pq_scan,        pq_encode,    pq_table,
                 key_scores, pool_shares,   rabitq_encode,  rabitq_query, rabitq_scan,
                 value_mean, tail_sums,     cluster_encode, cluster_scan, sparq_scan};
}

}  // namespace strata::cpu_attn
