// tools/cli/compute_peak.h - what the cores compute at most, measured: the ceiling that benches
// show a stage's operations as a share of.
#pragma once

#include "base/kernel_table.h"
#include "base/thread_pool.h"

namespace strata::cli {

/// Multiply and add count as two. 0 = not known of this instruction set (cpu_attn/peak.h).
struct ComputePeak {
  double f32_gflop_per_s = 0;
  double int8_gop_per_s = 0;
};

/// All threads of the pool together, the best of many passes that are shorter than a time slice of
/// the system: some tens of milliseconds.
ComputePeak measure_compute_peak(ThreadPool& pool, const KernelTable& kernels);

}  // namespace strata::cli
