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
/// Over a table that fill_linear_avx512 has filled: `linear` multiplies whole tiles of rows by AMX.
/// Gives the bits of AVX-512. Only where amx_is_permitted().
void fill_linear_avx512amx(KernelTable& table);

/// `linear` of fill_linear_avx512.
void linear_avx512(const LinearArgs& args);

/// Whether the CPU has AMX tiles of bytes, and the system lets this process use them: it wants to
/// be asked, which this does the first time, for all threads (kernels.cc).
bool amx_is_permitted();

/// Rows that kernels of quantised weights multiply with one panel at a time; more of them with two
/// (linear_quant.inc).
inline constexpr uint32_t kFewRows = 4;

/// Rows of a tile, and panels that kernels with tiles unpack at a time (linear_avx512amx.cc).
inline constexpr uint32_t kTileRows = 16;
inline constexpr uint32_t kTilePanels = 8;

/// Panels that a thread takes at a time of a layer of n_panels: six pieces for each thread even out
/// a slower core. Of many rows whole pairs, where there are as many: with fewer, one thread would
/// wait for another's pair for longer than pairs save. Tiles save more: up to kTilePanels from
/// three pieces for each thread on.
constexpr uint32_t panels_per_piece(uint32_t n_panels, uint32_t n_threads, uint32_t n_rows,
                                    bool has_tiles) {
  constexpr uint32_t kPiecesPerThread = 6;
  uint32_t n = n_panels / (n_threads * kPiecesPerThread);
  const bool in_tiles = has_tiles && n_rows >= kTileRows;
  if (in_tiles && n < kTilePanels) {
    const uint32_t of_three = n_panels / (n_threads * 3);
    n = of_three < kTilePanels ? of_three : kTilePanels;
    return n < 2 ? 1 : n / 2 * 2;
  }
  if (n < 2 || n_rows <= kFewRows) return n < 1 ? 1 : n;
  if (in_tiles) return n / kTilePanels * kTilePanels;
  return n < 8 ? 2 : n / 2 * 2;  // of few, a pair more or less still matters
}

}  // namespace strata::cpu_attn
