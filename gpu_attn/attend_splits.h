// gpu_attn/attend_splits.h - the host's arithmetic of decode attention: how a table is cut so that
// the launch fills a card, and what bytes a launch moves. Why: engines choose splits, benches
// divide by bytes, and neither should know the kernels. Nothing here is CUDA.
#pragma once

#include <cstdint>

#include "base/checked_math.h"
#include "base/device_kernels.h"

namespace strata::gpu_attn {

inline constexpr uint32_t kAttendTileQueries = 8;  // queries that share one pass over K and V
inline constexpr uint32_t kAttendSplitGrain = 8;   // blocks: split_blocks is a multiple of it
// Thread blocks that a multiprocessor is given: what the largest cards hold at once (their shared
// memory takes three). Smaller cards hold one or two and work the rest off one after another.
inline constexpr uint32_t kAttendThreadBlocksPerMultiprocessor = 3;

/// Tiles of queries of one KV head: each reads the table once.
constexpr uint32_t attend_query_tiles(uint32_t n_rows, uint32_t group) {
  return static_cast<uint32_t>(div_up(uint64_t{n_rows} * group, kAttendTileQueries));
}

/// Blocks of a split such that one wave of thread blocks takes all of them: the launch has at most
/// kAttendThreadBlocksPerMultiprocessor thread blocks for each multiprocessor, or splits of the
/// smallest size where there is less work than that.
constexpr uint32_t attend_split_blocks(uint32_t n_blocks, uint32_t n_kv_heads,
                                       uint32_t n_query_tiles, uint32_t n_multiprocessors) {
  const uint64_t n_streams = uint64_t{n_kv_heads} * n_query_tiles;
  const uint64_t n_wanted = uint64_t{n_multiprocessors == 0 ? 1 : n_multiprocessors} *
                            kAttendThreadBlocksPerMultiprocessor;
  const uint64_t splits_of_stream =
      n_streams == 0 || n_streams > n_wanted ? 1 : n_wanted / n_streams;
  const uint64_t blocks = round_up(div_up(n_blocks, splits_of_stream), kAttendSplitGrain);
  return static_cast<uint32_t>(blocks == 0 ? kAttendSplitGrain : blocks);
}

struct AttendSplit {
  uint32_t blocks;  // of a split
  uint32_t n_splits;
};
/// How the attention of few rows over n_blocks is cut; one split, which is empty, of no blocks.
constexpr AttendSplit attend_split(uint32_t n_blocks, uint32_t n_kv_heads, uint32_t group,
                                   uint32_t n_rows, uint32_t n_multiprocessors) {
  const uint32_t blocks = attend_split_blocks(n_blocks, n_kv_heads,
                                              attend_query_tiles(n_rows, group), n_multiprocessors);
  return {blocks, n_blocks == 0 ? 1 : static_cast<uint32_t>(div_up(n_blocks, blocks))};
}

/// Bytes that a launch moves when every query attends the whole table: K and V with their scales,
/// once per tile of queries and KV head; q; and the partials.
inline uint64_t attend_bytes(const DeviceAttendArgs& args) {
  const uint64_t n_queries = uint64_t{args.n_kv_heads} * args.n_rows * args.group;
  const uint64_t table = uint64_t{args.n_blocks} * kBlockPositions * kv_position_bytes(args.layout);
  return table * args.n_kv_heads * attend_query_tiles(args.n_rows, args.group) +
         n_queries * args.layout.head_dim * sizeof(float) +
         n_queries * args.n_splits * (uint64_t{args.layout.head_dim} + 2) * sizeof(float);
}

/// Bytes that merging reads and writes, the int8 form where it is wanted.
inline uint64_t merge_bytes(const DeviceMergeArgs& args) {
  const uint64_t n_queries = uint64_t{args.n_kv_heads} * args.n_rows * args.group;
  const uint64_t n_out = n_queries * args.head_dim;
  const uint64_t quantised = n_out + n_out / kActGroup * 4 + n_out / kActHalfGroup * 4;
  return n_queries * args.n_splits * (uint64_t{args.head_dim} + 2) * sizeof(float) +
         n_out * sizeof(float) + (args.quant.q == nullptr ? 0 : quantised);
}

}  // namespace strata::gpu_attn
