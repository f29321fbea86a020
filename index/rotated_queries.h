// index/rotated_queries.h - the queries of an estimate as methods of rotated keys take them.
#pragma once

#include <span>

#include "base/checked_math.h"
#include "base/kernel_table.h"
#include "index/selector.h"

namespace strata::index {

/// Rotated and rounded (RabitqQueryArgs), in the scratch of the estimate.
struct RotatedQueries {
  static uint64_t scratch_floats(uint32_t head_dim, uint32_t n_queries) {
    // Queries side by side; each query's codes, scale and sum.
    return uint64_t{head_dim} * kBlockPositions + n_queries * (code_floats(head_dim) + 2);
  }
  RotatedQueries(const KernelTable& kernels, uint32_t head_dim, const EstimateArgs& args) {
    float* code_at = args.scratch + uint64_t{head_dim} * kBlockPositions;
    scales = code_at + args.n_queries * code_floats(head_dim);
    codes = reinterpret_cast<int8_t*>(code_at);
    sums = reinterpret_cast<int32_t*>(scales + args.n_queries);
    kernels.index.rabitq_query({.q = args.q,
                                .n_queries = args.n_queries,
                                .head_dim = head_dim,
                                .columns = args.scratch,
                                .codes = codes,
                                .scales = scales,
                                .sums = sums});
  }

  /// Scores of the args' blocks by tiles that begin with that of block 0.
  RotatedScanArgs scan(std::span<const std::byte* const> tiles, uint32_t head_dim,
                       const EstimateArgs& args) const {
    const uint32_t first_tile = args.first_block / kExtentBlocks;
    return {.tiles = tiles.data() + first_tile,
            .n_tiles = static_cast<uint32_t>(div_up(args.end_block, kExtentBlocks)) - first_tile,
            .head_dim = head_dim,
            .codes = codes,
            .scales = scales,
            .sums = sums,
            .n_queries = args.n_queries,
            .block_scores = args.log_weights + args.first_block,
            .score_stride = args.weight_stride};
  }

  int8_t* codes;
  float* scales;
  int32_t* sums;

 private:
  static uint64_t code_floats(uint32_t head_dim) {
    return uint64_t{rabitq_groups(head_dim)} * kRabitqGroup / sizeof(float);
  }
};

}  // namespace strata::index
