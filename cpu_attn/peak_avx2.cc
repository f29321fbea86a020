// cpu_attn/peak_avx2.cc - full rate of AVX2 and FMA. Products of bytes come in three steps: pairs
// into 16 bits, eight such sums there (as 4-bit codes allow, linear_avx2.cc), then into 32 bits.
#include <immintrin.h>
#include <stdint.h>

#include "cpu_attn/peak.h"

namespace strata::cpu_attn {
namespace {

#include "cpu_attn/vec_avx2.inc"

#include "cpu_attn/repeat.inc"

#include "cpu_attn/peak.inc"

double peak_int8(uint64_t n_rounds) {
  constexpr uint32_t kSums = 4, kRun = 8;  // of 16 registers, with sums in 16 bits beside them
  __m256i sums[kSums];
  repeat<kSums>([&](auto i) STRATA_LAMBDA { sums[i] = _mm256_setzero_si256(); });
  __m256i one = _mm256_set1_epi8(1);
  const __m256i wide_one = _mm256_set1_epi16(1);
  for (uint64_t round = 0; round < n_rounds; ++round) {
    repeat<kSums>([&](auto i) STRATA_LAMBDA {
      __m256i narrow = _mm256_setzero_si256();
      repeat<kRun>([&](auto) STRATA_LAMBDA {
        keep(one);
        narrow = _mm256_add_epi16(narrow, _mm256_maddubs_epi16(one, one));
      });
      sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(narrow, wide_one));
    });
  }
  double all = 0;
  repeat<kSums>([&](auto i) STRATA_LAMBDA { all += sum_of_lanes<int32_t>(sums[i]); });
  return all;
}

}  // namespace

PeakLoops peak_loops_avx2() { return {peak_f32, peak_int8}; }

}  // namespace strata::cpu_attn
