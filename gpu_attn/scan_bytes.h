// gpu_attn/scan_bytes.h - what scanning the codes of an index moves and computes.
#pragma once

#include "base/device_kernels.h"
#include "base/index_kernels.h"

namespace strata::gpu_attn {

/// Bytes read and written: tiles once, the list of them, queries, scores.
constexpr uint64_t scan_codes_bytes(const DeviceScanArgs& args) {
  const uint64_t of_query = (uint64_t{args.head_dim} + uint64_t{args.n_tiles} * kExtentBlocks) * 4;
  return args.n_kv_heads * (args.n_tiles * (rabitq_tile_bytes(args.head_dim) + sizeof(void*)) +
                            args.n_queries * of_query);
}

/// Operations on bytes: a product and a sum per query, key (or centre) and dimension.
constexpr uint64_t scan_codes_ops(const DeviceScanArgs& args) {
  const uint64_t n_rows = uint64_t{args.n_tiles} * (kExtentPositions + kExtentBlocks);
  return args.n_kv_heads * n_rows * args.head_dim * args.n_queries * 2;
}

}  // namespace strata::gpu_attn
