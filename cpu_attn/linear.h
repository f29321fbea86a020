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

/// Panels that a thread takes at a time of a layer of n_panels: six pieces for each thread even out
/// a slower core. Many rows are multiplied with two panels at a time (linear_quant.inc), so that
/// such pieces are of whole pairs.
constexpr uint32_t panels_per_piece(uint32_t n_panels, uint32_t n_threads, uint32_t n_rows) {
  constexpr uint32_t kPiecesPerThread = 6, kFewRows = 4;
  const uint32_t n = n_panels / (n_threads * kPiecesPerThread);
  if (n < 2 || n_rows <= kFewRows) return n < 1 ? 1 : n;
  return n < 8 ? 2 : n / 2 * 2;  // few large pieces of unlike numbers would leave a thread idle
}

}  // namespace strata::cpu_attn
