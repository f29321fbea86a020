// cpu_attn/attend.h - attention over KV blocks in their resting layout: what each instruction set
// fills into the kernel table. Why: a block read once from DRAM serves every query of a tile, f16
// decoded in registers on its way to the multiplier, q8_0 multiplied in integers. The arithmetic
// and its order: cpu_attn/attend.inc, cpu_attn/attend_bytes.inc.
#pragma once

#include <stdint.h>

#include "base/kernel_table.h"

namespace strata::cpu_attn {

/// Set attend_segment, merge_partials and store_kv. The caller asks the CPU first whether it has
/// the set.
void fill_attend_scalar(KernelTable& table);
void fill_attend_avx2(KernelTable& table);
void fill_attend_avx512(KernelTable& table);

/// Bytes of K, V and scales that one attend_segment call over n_pos positions reads, each once,
/// when every query attends them all and the tile fits the cache. Queries, outputs and scratch stay
/// in the cache and are not counted.
inline uint64_t attend_bytes(const KvLayout& layout, uint64_t n_pos) {
  return n_pos * kv_position_bytes(layout);
}

/// Floating point operations of n_pairs attended (query, position) pairs: a product and a sum for
/// each dimension of K and V. The exponentials are not counted.
constexpr uint64_t attend_flops(uint64_t n_pairs, uint32_t head_dim) {
  return n_pairs * head_dim * 4;
}

/// Bytes that merging n_queries partials reads and writes.
constexpr uint64_t merge_bytes(uint64_t n_queries, uint32_t head_dim) {
  return n_queries * (uint64_t{head_dim} + 2) * 3 * sizeof(float);
}

}  // namespace strata::cpu_attn
