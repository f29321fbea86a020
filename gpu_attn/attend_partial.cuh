// gpu_attn/attend_partial.cuh - what the decode kernels share: the part of the work that a thread
// block is given, and its end, where the partials of its warps become one. Why: both kernels must
// mask and merge alike.
//
// Grid: x = tiles of 8 queries of one KV head (they read the same blocks, so they run side by side
// and share the second cache), y = splits, z = KV heads. Queries are counted through rows:
// query = row * group + head of the group, as q and the partials lie.
//
// A warp's partial of a query: `top`, its largest score in log2 units; `reference`, near top less a
// bias, the exponent that its sums are relative to; sums of exp2(score - reference), and of those
// times v.
#pragma once

#include "base/device_kernels.h"
#include "gpu_attn/attend_splits.h"
#include "gpu_attn/gpu.cuh"

namespace strata::gpu_attn {

inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kLn2 = 0.693147181f;

__device__ __forceinline__ float minus_infinity() { return bits_to_float(0xff800000u); }

/// Positions [begin, end).
struct PositionRange {
  uint32_t begin, end;
};

/// Where a row stands in the table of the thread block's KV head.
__device__ __forceinline__ uint32_t position_of(const DeviceAttendArgs& args, uint32_t row) {
  return args.positions[blockIdx.z * args.position_stride + row];
}

/// What a row at `position` attends, were the table to have it all.
__device__ __forceinline__ PositionRange attended(const DeviceAttendArgs& args, uint32_t position) {
  const bool is_cut = args.window != 0 && position >= args.window;
  return {is_cut ? position - args.window + 1 : 0, position + 1};
}

/// One thread block's share.
struct AttendShare {
  uint64_t first_query;                // among those of one split: the place in q and the partials
  uint32_t n_queries;                  // 1..8
  uint32_t first_row, last_row;        // that the queries belong to
  uint32_t begin, end;                 // blocks of the table: the split's, but for those before any
                                       // row's window
  const std::byte* const* head_table;  // of the KV head
};

/// The row that query `query` of the tile belongs to; for queries that are not there, the last.
__device__ __forceinline__ uint32_t row_of_query(const DeviceAttendArgs& args, uint32_t query) {
  return min((blockIdx.x * kAttendTileQueries + query) / args.group, args.n_rows - 1);
}

/// Positions are read only where there is a window: the first look into the table waits for nothing
/// else.
__device__ __forceinline__ AttendShare attend_share(const DeviceAttendArgs& args) {
  AttendShare share;
  const uint32_t n_of_head = args.n_rows * args.group;
  const uint32_t first = blockIdx.x * kAttendTileQueries;
  share.n_queries = min(kAttendTileQueries, n_of_head - first);
  share.first_query = uint64_t{blockIdx.z} * n_of_head + first;
  share.first_row = row_of_query(args, 0);
  share.last_row = row_of_query(args, share.n_queries - 1);
  share.head_table = args.blocks + blockIdx.z * args.block_stride;
  share.begin = min(blockIdx.y * args.split_blocks, args.n_blocks);
  share.end = min(share.begin + args.split_blocks, args.n_blocks);
  if (args.window != 0) {
    const uint32_t begin =
        attended(args, position_of(args, share.first_row)).begin / kBlockPositions;
    if (begin > args.first_block) share.begin = max(share.begin, begin - args.first_block);
  }
  return share;
}

/// Blocks from share.begin on that hold positions which the tile attends, the last of them at
/// `last_position`.
__device__ __forceinline__ uint32_t blocks_to_attend(const DeviceAttendArgs& args,
                                                     const AttendShare& share,
                                                     uint32_t last_position) {
  const uint32_t end = last_position / kBlockPositions + 1;
  const uint32_t stop = min(share.end, end > args.first_block ? end - args.first_block : 0);
  return stop > share.begin ? stop - share.begin : 0;
}

/// Shared memory of the end of a thread block.
template <uint32_t kWarps>
struct PartialsInShared {
  float top[kWarps][kAttendTileQueries];
  float reference[kWarps][kAttendTileQueries];
  float l[kWarps][kAttendTileQueries];
};

/// Outputs of a query in shared memory are head_dim floats and these: the lanes of a warp, 8
/// queries by 4 dimensions, write to different banks then.
inline constexpr uint32_t kOutputPadding = 8;

/// Adds the warps' sums in their order and writes the thread block's partials. `outputs` is
/// [n_warps][8][head_dim + kOutputPadding]; all of it and `partials` lies before a barrier.
template <uint32_t kWarps>
__device__ __forceinline__ void write_partials(const DeviceAttendArgs& args,
                                               const AttendShare& share,
                                               const PartialsInShared<kWarps>& partials,
                                               const float* outputs, uint32_t n_warps) {
  const uint32_t head_dim = args.layout.head_dim;
  const uint64_t n_queries = uint64_t{args.n_kv_heads} * args.n_rows * args.group;
  const uint64_t first = blockIdx.y * n_queries + share.first_query;
  const uint32_t n_quads = head_dim / 4;
  for (uint32_t i = threadIdx.x; i < share.n_queries * n_quads; i += n_warps * 32) {
    const uint32_t query = i / n_quads;
    const uint32_t quad = i % n_quads;
    float top = minus_infinity();
    for (uint32_t warp = 0; warp < n_warps; ++warp) top = fmaxf(top, partials.top[warp][query]);
    float4 o = make_float4(0, 0, 0, 0);
    float l = 0;
    for (uint32_t warp = 0; warp < n_warps; ++warp) {
      const float l_of_warp = partials.l[warp][query];
      if (l_of_warp == 0) continue;  // it has nothing
      const float factor = exp2_approx(partials.reference[warp][query] - top);
      const auto* from = reinterpret_cast<const float4*>(
          outputs + (warp * kAttendTileQueries + query) * (head_dim + kOutputPadding));
      const float4 part = from[quad];
      o.x = fmaf(part.x, factor, o.x);
      o.y = fmaf(part.y, factor, o.y);
      o.z = fmaf(part.z, factor, o.z);
      o.w = fmaf(part.w, factor, o.w);
      l = fmaf(l_of_warp, factor, l);
    }
    reinterpret_cast<float4*>(args.o + (first + query) * head_dim)[quad] = o;
    if (quad == 0) {
      // The largest of scores that are all NaN is -inf: l, which they reached, makes it NaN.
      args.m[first + query] = l == 0 ? top : fmaf(l, 0, top * kLn2);
      args.l[first + query] = l;
    }
  }
}

}  // namespace strata::gpu_attn
