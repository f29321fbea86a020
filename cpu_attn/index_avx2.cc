// cpu_attn/index_avx2.cc - kernels of retrieval, instruction set "avx2". A table of 64 bytes is
// four quarters of 16, each looked up by vpshufb with the code's low four bits; bits 4 and 5 of the
// code choose among the four.
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "base/key_rotation.h"
#include "cpu_attn/index.h"

namespace strata::cpu_attn {
namespace {

#include "cpu_attn/vec_avx2.inc"

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

// ---- The byte operations of index_pq_scan.inc in vectors of 32 keys.
constexpr uint32_t kCodeKeys = 32;
constexpr uint32_t kScanQueries = 4;

/// vpshufb takes the low four bits where bit 7 is clear; a blend takes bit 7.
struct Codes {
  __m256i low, bit4, bit5;
};
STRATA_VEC Codes load_codes(const std::byte* at) {
  const __m256i codes = _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)),
                                         _mm256_set1_epi8(kPqCentroids - 1));
  return {codes, _mm256_slli_epi16(codes, 3), _mm256_slli_epi16(codes, 2)};
}

STRATA_VEC __m256i quarter(const uint8_t* table, uint32_t i, __m256i codes) {
  const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table) + i);
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), codes);
}

struct KeySums {
  __m256i all, odd;  // 16-bit lanes; lane i is of keys 2i (and 2i + 1)
  STRATA_VEC void clear() { all = odd = _mm256_setzero_si256(); }
  STRATA_VEC void add(const uint8_t* table, const Codes& codes) {
    const __m256i lower =
        _mm256_blendv_epi8(quarter(table, 0, codes.low), quarter(table, 1, codes.low), codes.bit4);
    const __m256i upper =
        _mm256_blendv_epi8(quarter(table, 2, codes.low), quarter(table, 3, codes.low), codes.bit4);
    const __m256i values = _mm256_blendv_epi8(lower, upper, codes.bit5);
    all = _mm256_add_epi16(all, values);
    odd = _mm256_add_epi16(odd, _mm256_srli_epi16(values, 8));
  }
  STRATA_VEC void store_maxima(uint16_t* to) const {
    const __m256i even = _mm256_sub_epi16(all, _mm256_slli_epi16(odd, 8));
    _mm256_store_si256(reinterpret_cast<__m256i*>(to), _mm256_max_epu16(even, odd));
  }
};

/// Weights of 8 pairs, less than the largest by `gaps` steps.
STRATA_VEC __m256 pair_weights(__m256i largest, __m128i pairs, float step) {
  const __m256 gaps = _mm256_cvtepi32_ps(_mm256_sub_epi32(largest, _mm256_cvtepu16_epi32(pairs)));
  const __m256 down =
      _mm256_min_ps(_mm256_mul_ps(gaps, _mm256_set1_ps(step)), _mm256_set1_ps(kLeastWeight));
  return _mm256_castsi256_ps(
      _mm256_sub_epi32(_mm256_set1_epi32(kBitsOfOne), _mm256_cvttps_epi32(down)));
}

STRATA_VEC void store_block_scores(const uint16_t* maxima, float scale, float offset, float* out) {
  const float step = gap_step(scale);
  for (uint32_t b = 0; b < kExtentBlocks; ++b, maxima += 16) {
    const __m128i low = _mm_load_si128(reinterpret_cast<const __m128i*>(maxima));
    const __m128i high = _mm_load_si128(reinterpret_cast<const __m128i*>(maxima) + 1);
    // The least of eight is an instruction; the largest is the complement of the complements'
    // least.
    const __m128i least =
        _mm_minpos_epu16(_mm_xor_si128(_mm_max_epu16(low, high), _mm_set1_epi16(-1)));
    const int32_t sum = 0xffff - _mm_extract_epi16(least, 0);
    const __m256i largest = _mm256_set1_epi32(sum);
    const float weight =
        reduce_add(add(pair_weights(largest, low, step), pair_weights(largest, high, step)));
    out[b] = scale * static_cast<float>(sum) + offset + log_of_weight(weight);
  }
}

#include "cpu_attn/index_pq_scan.inc"

// ---- What index_rabitq_scan.inc asks for, in vectors of 8 words.
typedef uint32_t Words __attribute__((vector_size(32)));
STRATA_VEC Words load_words(const std::byte* at) {
  return (Words)_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}

/// The bits of `of` that the mask has, and the others of `others`.
STRATA_VEC Words bits_or(uint32_t mask, Words of, Words others) {
  return (of & mask) | (others & ~mask);
}
constexpr uint32_t kPairsAtOnce = 1;  // of keys

/// Pairs of products in 16 bits: eight quads of a group are at most 8 * 2 * 15 * 127.
struct Products {
  __m256i pairs, all;
  STRATA_VEC void clear() { pairs = all = _mm256_setzero_si256(); }
  STRATA_VEC void add(Words codes, uint32_t query) {
    const __m256i values = _mm256_set1_epi32(static_cast<int32_t>(query));
    pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16((__m256i)codes, values));
  }
  STRATA_VEC void end_group() {
    all = _mm256_add_epi32(all, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    pairs = _mm256_setzero_si256();
  }
  STRATA_VEC Vec values() const { return _mm256_cvtepi32_ps(all); }
};

STRATA_VEC Vec weights_below(Vec down) {
  return _mm256_castsi256_ps(
      _mm256_sub_epi32(_mm256_set1_epi32(kBitsOfOne), _mm256_cvttps_epi32(down)));
}

/// Bits of each lane above those of one.
STRATA_VEC Vec bits_above_one(Vec weights) {
  return _mm256_cvtepi32_ps(
      _mm256_sub_epi32(_mm256_castps_si256(weights), _mm256_set1_epi32(kBitsOfOne)));
}

/// Seven bits, also of bytes from a file: a pair of products fits 16 bits.
using Centres = __m256i;
STRATA_VEC Centres load_centres(const std::byte* at) {
  return _mm256_and_si256((__m256i)load_words(at), _mm256_set1_epi8(0x7f));
}
struct CentreProducts {
  __m256i blocks;
  STRATA_VEC void start(int32_t sum) { blocks = _mm256_set1_epi32(sum); }
  STRATA_VEC void add(Centres seven, uint32_t query) {
    const __m256i pairs =
        _mm256_maddubs_epi16(seven, _mm256_set1_epi32(static_cast<int32_t>(query)));
    blocks = _mm256_add_epi32(blocks, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  STRATA_VEC Vec values(uint32_t) const { return _mm256_cvtepi32_ps(blocks); }
};

/// Of a line, f(both keys' lanes) for both.
template <class F>
STRATA_VEC void of_both_keys(Vec* line, const F& f) {
  line[0] = line[1] = f(line[0], line[1]);
}
/// The eight blocks' numbers, for either key of a line.
STRATA_VEC Vec load_of_blocks(const float* of_blocks, uint32_t) { return load(of_blocks); }
STRATA_VEC void store_blocks(float* out, uint32_t, Vec v) { store(out, v); }

#include "cpu_attn/index_rabitq_scan.inc"

/// The sum of 32 products, what index_cluster_scan.inc asks for besides.
STRATA_VEC int32_t product_of_group(const std::byte* seven_bits, const int8_t* codes) {
  const __m256i seven = _mm256_and_si256((__m256i)load_words(seven_bits), _mm256_set1_epi8(0x7f));
  const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  const __m256i fours =
      _mm256_madd_epi16(_mm256_maddubs_epi16(seven, values), _mm256_set1_epi16(1));
  alignas(32) int32_t sums[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(sums), fours);
  int32_t sum = 0;
  for (const int32_t of_four : sums) sum += of_four;
  return sum;
}

#include "cpu_attn/index_cluster_scan.inc"

#include "cpu_attn/index_sparq_scan.inc"

}  // namespace

void fill_index_avx2(KernelTable& table) {
  table.index = {load_k,     digest_scores, pq_scan,        pq_encode,    pq_table,
                 key_scores, pool_shares,   rabitq_encode,  rabitq_query, rabitq_scan,
                 value_mean, tail_sums,     cluster_encode, cluster_scan, sparq_scan};
}

}  // namespace strata::cpu_attn
