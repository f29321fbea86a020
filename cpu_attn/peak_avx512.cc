// cpu_attn/peak_avx512.cc - full rate of AVX-512 with VNNI: one instruction adds four products of
// bytes to each of 16 lanes.

// The compiler's own header leaves a vector uninitialised on purpose and g++ 12 warns of it (GCC
// bug 105593).
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>
#include <stdint.h>

#include "cpu_attn/peak.h"

namespace strata::cpu_attn {
namespace {

#include "cpu_attn/vec_avx512.inc"

#include "cpu_attn/repeat.inc"

#include "cpu_attn/peak.inc"

double peak_int8(uint64_t n_rounds) {
  __m512i sums[kAccumulators];
  repeat<kAccumulators>([&](auto i) STRATA_LAMBDA { sums[i] = _mm512_setzero_si512(); });
  __m512i one = _mm512_set1_epi8(1);
  for (uint64_t round = 0; round < n_rounds; ++round) {
    keep(one);
    repeat<kAccumulators>([&](auto i)
                              STRATA_LAMBDA { sums[i] = _mm512_dpbusd_epi32(sums[i], one, one); });
  }
  double all = 0;
  repeat<kAccumulators>([&](auto i) STRATA_LAMBDA { all += sum_of_lanes<int32_t>(sums[i]); });
  return all;
}

}  // namespace

PeakLoops peak_loops_avx512() { return {peak_f32, peak_int8}; }

}  // namespace strata::cpu_attn
