// cpu_attn/row_ops.h - norms, RoPE, activations and residuals over rows of f32: what each
// instruction set fills in. Why: one arithmetic for a value wherever it stands in a row, so that a
// row's bits do not depend on its neighbours.
#pragma once

#include <stdint.h>

#include "base/kernel_table.h"

namespace strata::cpu_attn {

/// Set rms_norm, rope, silu_mul, gelu_mul, add and scale. The caller asks the CPU first whether it
/// has the set.
void fill_row_ops_scalar(KernelTable& table);
void fill_row_ops_avx2(KernelTable& table);
void fill_row_ops_avx512(KernelTable& table);

/// Bytes that an operation over n floats moves: n_in rows read
/// (x, w; gate, up; a, b) and one written.
constexpr uint64_t row_op_bytes(uint64_t n, uint32_t n_in) {
  return n * (n_in + 1) * sizeof(float);
}

}  // namespace strata::cpu_attn
