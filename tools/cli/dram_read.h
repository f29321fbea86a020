// tools/cli/dram_read.h - the read bandwidth of DRAM, which benches show kernels as a share of.
// Why: a kernel's GB/s say something only beside what the machine gave in the same minute, and a
// ceiling must not be lower than what the kernels reach.
#pragma once

#include <cstddef>
#include <span>

#include "base/thread_pool.h"

namespace strata::cli {

/// GB/s (1e9) that all threads of the pool read together over 96 MiB and up to 512 MiB of
/// `resident` (the weights: memory that is there anyway). The best of five passes in each of
/// several orders of reading: which one a memory serves fastest differs from machine to machine. A
/// last-level cache of that size or more makes the figure one of the cache.
double measure_dram_read(ThreadPool& pool, std::span<const std::byte> resident);

}  // namespace strata::cli
