// cpu_attn/attend_avx512.cc - attention kernels, instruction set "avx512".

// The compiler's own header leaves a vector uninitialised on purpose and g++ 12 warns of it (GCC
// bug 105593).
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "cpu_attn/attend.h"

namespace strata::cpu_attn {
namespace {

#include "cpu_attn/vec_avx512.inc"

#include "cpu_attn/repeat.inc"

#include "cpu_attn/vec_exp.inc"

#include "cpu_attn/quads_avx512.inc"

#include "cpu_attn/attend.inc"

#include "cpu_attn/attend_store.inc"

}  // namespace

void fill_attend_avx512(KernelTable& table) {
  table.attend_segment = attend_segment;
  table.merge_partials = merge_partials;
  table.store_kv = store_kv;
}

}  // namespace strata::cpu_attn
