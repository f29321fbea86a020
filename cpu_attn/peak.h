// cpu_attn/peak.h - the arithmetic of an instruction set at full rate: loops that never leave the
// registers. Why: a kernel's operations per second say something only beside what the same cores
// gave in the same minute.
#pragma once

#include <stdint.h>

#include "base/kernel_table.h"

namespace strata::cpu_attn {

/// Runs `n_rounds` rounds of multiply-adds by ones and returns their number as the sum of all
/// lanes: exact up to kPeakRoundsMax rounds.
using PeakLoop = double (*)(uint64_t n_rounds);

inline constexpr uint64_t kPeakRoundsMax = uint64_t{1} << 20;

/// What the walk computes with: sums in f32 (attention, layers of float types) and products of
/// bytes summed in 32 bits (quantised layers). BF16 dots are not used by it (linear_avx512.cc says
/// why).
struct PeakLoops {
  PeakLoop f32 = nullptr;
  PeakLoop int8 = nullptr;
};

/// Of the table's set, which this CPU has. The scalar set has none: what a compiler makes of plain
/// C++ is no ceiling.
PeakLoops peak_loops(CpuIsa isa);

/// Products of bytes in tiles (AMX), each round of 4 * 16 * 16 * 64. Only where a table has_tiles.
PeakLoop peak_int8_tiles();

PeakLoops peak_loops_avx2();
PeakLoops peak_loops_avx512();

}  // namespace strata::cpu_attn
