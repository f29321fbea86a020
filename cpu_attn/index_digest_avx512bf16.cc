// cpu_attn/index_digest_avx512bf16.cc - products with digests, AVX-512 with BF16: vdpbf16ps adds
// the products of a pair of dimensions to a lane, both rounded to nearest, subnormals taken as
// zero.

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
#include "cpu_attn/index.h"

namespace strata::cpu_attn {
namespace {

#include "cpu_attn/vec_avx512.inc"

#include "cpu_attn/repeat.inc"

template <uint32_t kQueries>
constexpr uint32_t kDigestVecs = 1;  // of pages, at once
constexpr uint32_t kDigestQueries = 8, kPassQueries = 8;
constexpr uint32_t kStepRows = 2;  // rows between equal uses of the two chains

using DigestQuery = int32_t;  // a pair
STRATA_VEC DigestQuery digest_query(const uint16_t* pair) {
  DigestQuery q;
  memcpy(&q, pair, sizeof q);
  return q;
}

/// One chain for even pairs of dimensions, one for odd ones.
template <uint32_t kRow, uint32_t kQueries>
STRATA_VEC void add_digest_row(const std::byte* row, const DigestQuery* q,
                               Vec (&chains)[kQueries][1][2]) {
  const __m512i pairs = _mm512_loadu_si512(row);
  repeat<kQueries>([&](auto i) STRATA_LAMBDA {
    chains[i][0][kRow] = _mm512_dpbf16_ps(chains[i][0][kRow], reinterpret_cast<__m512bh>(pairs),
                                          reinterpret_cast<__m512bh>(_mm512_set1_epi32(q[i])));
  });
}

#include "cpu_attn/index_digest.inc"

}  // namespace

void fill_index_digest_avx512bf16(KernelTable& table) { table.index.digest_scores = digest_scores; }

}  // namespace strata::cpu_attn
