// cpu_attn/row_ops_avx2.cc - row operations, instruction set "avx2".
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "cpu_attn/row_ops.h"

namespace strata::cpu_attn {
namespace {

#include "cpu_attn/vec_avx2.inc"

#include "cpu_attn/repeat.inc"

#include "cpu_attn/vec_exp.inc"

#include "cpu_attn/row_ops.inc"

}  // namespace

void fill_row_ops_avx2(KernelTable& table) {
  table.rms_norm = rms_norm;
  table.rope = rope;
  table.silu_mul = silu_mul;
  table.gelu_mul = gelu_mul;
  table.add = add_rows;
  table.scale = scale_row;
}

}  // namespace strata::cpu_attn
