// gpu_attn/tensor_core_work.h - bytes and arithmetic of what runs on the tensor cores, by formula:
// the benches divide by them.
#pragma once

#include <cstdint>

#include "base/device_kernels.h"

namespace strata::gpu_attn {

/// Pairs (row, position) that are attended when the chunk's first row is at `first_position`.
inline uint64_t prefill_pairs(const DevicePrefillArgs& args, uint32_t first_position) {
  const uint64_t table_begin = uint64_t{args.first_block} * kBlockPositions;
  const uint64_t table_end = table_begin + uint64_t{args.n_blocks} * kBlockPositions;
  uint64_t n_pairs = 0;
  for (uint64_t i = 0; i < args.n_rows; ++i) {
    const uint64_t end_of_row = first_position + i + 1;
    const uint64_t end = end_of_row < table_end ? end_of_row : table_end;
    uint64_t begin = table_begin;
    if (args.window != 0 && end_of_row > args.window && end_of_row - args.window > begin)
      begin = end_of_row - args.window;
    if (end > begin) n_pairs += end - begin;
  }
  return n_pairs;
}

/// Two products of head_dim per pair and query head, two operations per multiply-add.
inline uint64_t prefill_flop(const DevicePrefillArgs& args, uint32_t first_position) {
  return 4 * uint64_t{args.layout.head_dim} * prefill_pairs(args, first_position) *
         args.n_kv_heads * args.group;
}

/// Every block, row of q and row of out once. Tiles of one KV head find each other's blocks in the
/// second cache.
inline uint64_t prefill_bytes(const DevicePrefillArgs& args) {
  const uint64_t blocks = uint64_t{args.n_kv_heads} * args.n_blocks * args.layout.block_bytes;
  const uint64_t row = uint64_t{args.n_kv_heads} * args.group * args.layout.head_dim * 4;
  return blocks + 2 * args.n_rows * row;
}

/// All matrices of a launch.
inline uint64_t wide_linear_flop(const DeviceLinearArgs& args) {
  uint64_t flop = 0;
  for (uint32_t i = 0; i < args.n_matrices; ++i)
    flop += 2 * uint64_t{args.n_rows} * args.w[i].n_out * args.w[i].n_in;
  return flop;
}

/// Packed weights, x and out once; weights and x as f16 written and read once. Tiles that read the
/// same rows find them in the second cache.
inline uint64_t wide_linear_bytes(const DeviceLinearArgs& args) {
  const uint64_t n_in = args.w[0].n_in;
  uint64_t bytes = args.n_rows * n_in * 8;
  for (uint32_t i = 0; i < args.n_matrices; ++i)
    bytes += args.w[i].total_bytes() + uint64_t{args.w[i].n_panels()} * kPanelRows * n_in * 4 +
             uint64_t{args.n_rows} * args.w[i].n_out * 4;
  return bytes;
}

}  // namespace strata::gpu_attn
