// tools/cli/compute_peak.h - what the cores compute at most, measured: the ceiling that benches
// show a stage's operations as a share of.
#pragma once

#include "base/kernel_table.h"
#include "base/kv_layout.h"
#include "base/thread_pool.h"

namespace strata::cli {

/// What values are multiplied in: f32; bytes; codes of 15 bits by bytes, two products of bytes each
/// (cpu_attn/attend_bytes.inc).
enum class Arithmetic : uint8_t { kF32, kInt8, kInt8Pair };

/// "f32", "int8", "int8-pair".
const char* arithmetic_name(Arithmetic arithmetic);
/// Of attention over such K and V. Where one of the two is in f16, the slower: f32.
Arithmetic attend_arithmetic(KvCodec k_codec, KvCodec v_codec);

/// Multiply and add count as two. 0 = not known of this instruction set (cpu_attn/peak.h).
struct ComputePeak {
  double f32_gflop_per_s = 0;
  double int8_gop_per_s = 0;  // of vectors; tiles, which prompts alone use, have a higher one

  /// Values multiplied and added in such arithmetic, 1e9 operations a second.
  double of(Arithmetic arithmetic) const;
};

/// All threads of the pool together, the best of many passes that are shorter than a time slice of
/// the system: some tens of milliseconds.
ComputePeak measure_compute_peak(ThreadPool& pool, const KernelTable& kernels);
/// Of int8 in tiles of 64 bytes a row, 1e9 operations a second, where the CPU has them
/// (KernelTable::has_tiles). Groups of 32 fill half of such a tile.
double measure_tile_peak(ThreadPool& pool);

}  // namespace strata::cli
