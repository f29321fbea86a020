#include "index/tiled_selector.h"

namespace strata::index {

void TiledSelector::observe_values(StreamIdx stream, uint32_t block_idx, const std::byte* block) {
  if (tail_ == Tail::kNone) return;
  std::byte* values = open_tile(stream, block_idx) + value_offset_;
  const uint32_t in_extent = block_idx % kExtentBlocks;
  // Blocks of an extent come in order, and what a slot held before is no one's.
  if (in_extent == 0) std::memset(values, 0, value_tile_bytes(layout_.head_dim));
  kernels_->index.value_mean(
      {.layout = layout_, .block = block, .block_idx = in_extent, .tile = values});
}

void TiledSelector::estimate_tail(const TailArgs& args) const {
  STRATA_CHECK(has_tail(), "no mean values are kept");
  STRATA_CHECK(args.first_block % kExtentBlocks == 0 && args.first_block <= args.end_block &&
                   args.end_block <= n_blocks(),
               "blocks [%u, %u) of %u", args.first_block, args.end_block, n_blocks());
  kernels_->index.tail_sums(
      {.tiles = table_.tiles(args.stream).data() + args.first_block / kExtentBlocks,
       .value_offset = value_offset_,
       .n_blocks = args.end_block - args.first_block,
       .head_dim = layout_.head_dim,
       .log_weights = args.log_weights + args.first_block,
       .weight_stride = args.weight_stride,
       .n_queries = args.n_queries,
       .scratch = args.scratch,
       .o = args.o,
       .m = args.m,
       .l = args.l});
}

}  // namespace strata::index
