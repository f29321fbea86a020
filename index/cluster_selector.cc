#include "index/cluster_selector.h"

#include <array>
#include <cstring>

#include "base/check.h"
#include "index/rotated_queries.h"

namespace strata::index {

ClusterSelector::ClusterSelector(const KvLayout& layout, const KernelTable& kernels,
                                 std::shared_ptr<TileMemory> memory, uint32_t n_streams, Tail tail)
    : TiledSelector(layout, kernels, std::move(memory), cluster_tile_bytes(layout.head_dim),
                    n_streams, tail) {
  STRATA_CHECK(layout.head_dim % 8 == 0 && layout.head_dim <= kRabitqHeadDimMax, "head_dim=%u",
               layout.head_dim);
}

void ClusterSelector::observe(StreamIdx stream, uint32_t block_idx, const std::byte* block) {
  alignas(64) std::array<float, size_t{kRabitqHeadDimMax} * kBlockPositions> keys;
  std::byte* tile = open_tile(stream, block_idx);
  // Blocks of an extent come in order, and what a slot held before is no one's.
  if (block_idx % kExtentBlocks == 0) std::memset(tile, 0, cluster_tile_bytes(layout_.head_dim));
  kernels_->index.load_k(layout_, block, keys.data());
  kernels_->index.cluster_encode({.keys = keys.data(),
                                  .head_dim = layout_.head_dim,
                                  .block = block_idx % kExtentBlocks,
                                  .tile = tile});
  observe_values(stream, block_idx, block);
}

uint64_t ClusterSelector::scratch_floats(uint32_t n_queries) const {
  return RotatedQueries::scratch_floats(layout_.head_dim, n_queries);
}

void ClusterSelector::estimate(const EstimateArgs& args) const {
  check_blocks(args);
  const RotatedQueries queries(*kernels_, layout_.head_dim, args);
  kernels_->index.cluster_scan(queries.scan(table_.tiles(args.stream), layout_.head_dim, args));
}

std::unique_ptr<Selector> ClusterSelector::fork() const {
  return std::unique_ptr<Selector>(new ClusterSelector(*this));
}

}  // namespace strata::index
