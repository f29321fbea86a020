// cpu_attn/index.h - the kernels of retrieval: what each instruction set fills into the kernel
// table. Why: every decoded token reads the index of its whole context, so the two scans run at the
// speed of memory. Shapes: base/index_kernels.h. The arithmetic and its order: index_digest.inc,
// index_pq_scan.inc, index_pq_query.inc, index_encode.inc, index_rabitq_encode.inc,
// index_rabitq_scan.inc, index_cluster_encode.inc, index_cluster_scan.inc, index_sparq_scan.inc,
// index_pool.inc, index_tail.inc.
#pragma once

#include <stdint.h>

#include "base/kernel_table.h"

namespace strata::cpu_attn {

/// Set KernelTable::index. The caller asks the CPU first whether it has the set.
void fill_index_scalar(KernelTable& table);
void fill_index_avx2(KernelTable& table);
void fill_index_avx512(KernelTable& table);

/// After fill_index_avx512, where the CPU also has AVX512-BF16: digest_scores by vdpbf16ps.
void fill_index_digest_avx512bf16(KernelTable& table);
/// After fill_index_avx512, where the CPU also has AVX512-VBMI: pq_scan by vpermb.
void fill_index_pq_avx512vbmi(KernelTable& table);

/// By how much ln(sum exp) errs, in nat, that is taken by the bits of floats: index_pq_weight.inc.
inline constexpr double kWeightTolerance = 0.0602;

/// Bytes that digest_scores reads from the tiles, each once. Queries and scores stay in the cache.
constexpr uint64_t digest_scan_bytes(uint64_t n_tiles, uint32_t n_dims) {
  return n_tiles * digest_tile_bytes(n_dims);
}
/// Floating point operations: a product and a sum per page, dimension and query.
constexpr uint64_t digest_scan_flops(uint64_t n_tiles, uint32_t n_dims, uint64_t n_queries) {
  return n_tiles * kTilePages * n_dims * n_queries * 2;
}

/// Bytes that pq_scan reads from the tiles, each once. Tables and scores stay in the cache.
constexpr uint64_t pq_scan_bytes(uint64_t n_tiles) { return n_tiles * kPqTileBytes; }
/// Operations: a look-up and a sum per key, sub-space and query.
constexpr uint64_t pq_scan_flops(uint64_t n_tiles, uint64_t n_queries) {
  return n_tiles * kExtentPositions * kPqSubspaces * n_queries * 2;
}

/// Floating point operations of pq_encode: a product and a sum per key, centroid and dimension.
constexpr uint64_t pq_encode_flops(uint32_t head_dim) {
  return uint64_t{kBlockPositions} * kPqCentroids * head_dim * 2;
}

/// Floating point operations of pq_table: a product and a sum per centroid and dimension.
constexpr uint64_t pq_table_flops(uint32_t head_dim) {
  return uint64_t{kPqCentroids} * head_dim * 2;
}

/// Floating point operations of key_scores: a product and a sum per key, dimension and query.
constexpr uint64_t key_score_flops(uint32_t head_dim, uint64_t n_queries) {
  return uint64_t{kBlockPositions} * head_dim * n_queries * 2;
}

/// Bytes that rabitq_scan reads from the tiles, each once. Queries and scores stay in the cache.
constexpr uint64_t rabitq_scan_bytes(uint64_t n_tiles, uint32_t head_dim) {
  return n_tiles * rabitq_tile_bytes(head_dim);
}
/// Operations: a product and a sum per key, dimension and query, and those of a key more per block.
constexpr uint64_t rabitq_scan_flops(uint64_t n_tiles, uint32_t head_dim, uint64_t n_queries) {
  return n_tiles * (kExtentPositions + kExtentBlocks) * head_dim * n_queries * 2;
}

/// Floating point operations of rabitq_encode but for its rotation (a sum per key, dimension and
/// doubling): one for the mean and its difference each, ten for codes and factors.
constexpr uint64_t rabitq_encode_flops(uint32_t head_dim) {
  return uint64_t{kBlockPositions} * head_dim * 12;
}

/// Bytes that cluster_scan reads from the tiles, each once. Queries and scores stay in the cache.
constexpr uint64_t cluster_scan_bytes(uint64_t n_tiles, uint32_t head_dim) {
  return n_tiles * cluster_tile_bytes(head_dim);
}
/// Operations: a product and a sum per centroid, dimension and query.
constexpr uint64_t cluster_scan_flops(uint64_t n_tiles, uint32_t head_dim, uint64_t n_queries) {
  return n_tiles * kTileClusters * head_dim * n_queries * 2;
}

/// Floating point operations of cluster_encode but for its rotation: of the mean, and a product and
/// a sum per key, cluster and dimension in five assignments, four means and four seeds.
constexpr uint64_t cluster_encode_flops(uint32_t head_dim) {
  return uint64_t{kBlockPositions} * (1 + 13 * kBlockClusters * 2) * head_dim;
}

/// Bytes that sparq_scan reads from the tiles: of n_components different ones, each once.
constexpr uint64_t sparq_scan_bytes(uint64_t n_tiles, uint32_t n_components) {
  return n_tiles * n_components * kSparqRowBytes;
}
/// Floating point operations: a product and a sum per key, component and query.
constexpr uint64_t sparq_scan_flops(uint64_t n_tiles, uint32_t n_components, uint64_t n_queries) {
  return n_tiles * kExtentPositions * n_components * n_queries * 2;
}

/// Bytes that pool_shares reads and writes: weights in three passes, shares once per query.
constexpr uint64_t pool_shares_bytes(uint64_t n_queries, uint64_t n_blocks) {
  return n_queries * n_blocks * 5 * sizeof(float);
}

/// Bytes that tail_sums reads from the tiles, once for every kTailQueries queries.
constexpr uint64_t tail_sums_bytes(uint64_t n_tiles, uint32_t head_dim) {
  return n_tiles * value_tile_bytes(head_dim);
}
/// Floating point operations: a product and a sum per block, dimension and query.
constexpr uint64_t tail_sums_flops(uint64_t n_blocks, uint32_t head_dim, uint64_t n_queries) {
  return n_blocks * head_dim * n_queries * 2;
}

}  // namespace strata::cpu_attn
