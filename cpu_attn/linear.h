// cpu_attn/linear.h - the linear layers of each instruction set.
// Each function fills `quantize_rows` and `linear` of a table (base/kernel_table.h). Its file is
// compiled for that set, so it may be called only where the CPU has it (kernels.cc looks).
#pragma once

#include <stdint.h>

#include "base/kernel_table.h"

namespace strata::cpu_attn {

void fill_linear_scalar(KernelTable& table);
void fill_linear_avx2(KernelTable& table);
void fill_linear_avx512(KernelTable& table);  // F, BW, DQ, VL and VNNI

/// Rows that kernels of quantised weights multiply with one panel at a time; more of them with two
/// (linear_quant.inc).
inline constexpr uint32_t kFewRows = 4;

/// Panels that a thread takes at a time of a layer of n_panels: six pieces for each thread even out
/// a slower core. Of many rows whole pairs, where there are as many: with fewer, one thread would
/// wait for another's pair for longer than pairs save.
constexpr uint32_t panels_per_piece(uint32_t n_panels, uint32_t n_threads, uint32_t n_rows) {
  constexpr uint32_t kPiecesPerThread = 6;
  const uint32_t n = n_panels / (n_threads * kPiecesPerThread);
  if (n < 2 || n_rows <= kFewRows) return n < 1 ? 1 : n;
  return n < 8 ? 2 : n / 2 * 2;  // of few, a pair more or less still matters
}

}  // namespace strata::cpu_attn
