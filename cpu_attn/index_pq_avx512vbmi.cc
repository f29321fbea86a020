// cpu_attn/index_pq_avx512vbmi.cc - scores of keys by their codes, AVX-512 with VBMI: a table of 64
// bytes is one register, and vpermb looks 64 codes up in it.

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

constexpr uint32_t kScanQueries = 8;

using Codes = __m512i;
STRATA_VEC Codes load_codes(const std::byte* at) { return _mm512_loadu_si512(at); }
/// vpermb reads the low six bits of a code.
STRATA_VEC __m512i look_up(const uint8_t* table, const Codes& codes) {
  return _mm512_permutexvar_epi8(codes, _mm512_loadu_si512(table));
}

#include "cpu_attn/index_pq_weight.inc"

#include "cpu_attn/index_pq_avx512.inc"

#include "cpu_attn/index_pq_scan.inc"

}  // namespace

void fill_index_pq_avx512vbmi(KernelTable& table) { table.index.pq_scan = pq_scan; }

}  // namespace strata::cpu_attn
