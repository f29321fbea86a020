#include "index/cluster_selector.h"

#include <array>
#include <cstring>

#include "base/check.h"
#include "base/checked_math.h"

namespace strata::index {

ClusterSelector::ClusterSelector(const KvLayout& layout, const KernelTable& kernels,
                                 std::shared_ptr<TileMemory> memory, uint32_t n_streams)
    : TiledSelector(layout, kernels, std::move(memory), cluster_tile_bytes(layout.head_dim),
                    n_streams) {
  STRATA_CHECK(layout.head_dim % 8 == 0 && layout.head_dim <= kRabitqHeadDimMax, "head_dim=%u",
               layout.head_dim);
}

const std::byte* ClusterSelector::tile_before(StreamIdx stream, uint32_t extent) const {
  return extent == 0 ? nullptr : table_.tile(stream, extent - 1);
}

void ClusterSelector::observe(StreamIdx stream, uint32_t block_idx, const std::byte* block) {
  alignas(64) std::array<float, size_t{kRabitqHeadDimMax} * kBlockPositions> keys;
  std::byte* tile = open_tile(stream, block_idx);
  // What a slot held before is no one's.
  if (block_idx % kExtentBlocks == 0) std::memset(tile, 0, table_.tile_bytes());
  kernels_->index.load_k(layout_, block, keys.data());
  kernels_->index.cluster_encode({.keys = keys.data(),
                                  .head_dim = layout_.head_dim,
                                  .block = block_idx % kExtentBlocks,
                                  .before = tile_before(stream, block_idx / kExtentBlocks),
                                  .tile = tile});
}

uint64_t ClusterSelector::scratch_floats(uint32_t n_queries) const {
  // Each query's centroid scores; queries side by side; each query's codes, scale and sum.
  const uint64_t code_floats =
      uint64_t{rabitq_groups(layout_.head_dim)} * kRabitqGroup / sizeof(float);
  return uint64_t{layout_.head_dim} * kBlockPositions +
         n_queries * (kClusterNumbers + code_floats + 2);
}

void ClusterSelector::estimate(const EstimateArgs& args) const {
  check_blocks(args);
  const uint64_t code_bytes = uint64_t{rabitq_groups(layout_.head_dim)} * kRabitqGroup;
  float* centroid_scores = args.scratch;
  float* columns = centroid_scores + uint64_t{args.n_queries} * kClusterNumbers;
  float* codes = columns + uint64_t{layout_.head_dim} * kBlockPositions;
  float* scales = codes + args.n_queries * code_bytes / sizeof(float);
  float* sums = scales + args.n_queries;
  kernels_->index.rabitq_query({.q = args.q,
                                .n_queries = args.n_queries,
                                .head_dim = layout_.head_dim,
                                .columns = columns,
                                .codes = reinterpret_cast<int8_t*>(codes),
                                .scales = scales,
                                .sums = reinterpret_cast<int32_t*>(sums)});
  const uint32_t first_tile = args.first_block / kExtentBlocks;
  const auto n_tiles = static_cast<uint32_t>(div_up(args.end_block, kExtentBlocks)) - first_tile;
  kernels_->index.cluster_scan({.tiles = table_.tiles(args.stream).data() + first_tile,
                                .n_tiles = n_tiles,
                                .before = tile_before(args.stream, first_tile),
                                .head_dim = layout_.head_dim,
                                .codes = reinterpret_cast<const int8_t*>(codes),
                                .scales = scales,
                                .sums = reinterpret_cast<const int32_t*>(sums),
                                .n_queries = args.n_queries,
                                .scratch = centroid_scores,
                                .block_scores = args.log_weights + args.first_block,
                                .score_stride = args.weight_stride});
}

std::unique_ptr<Selector> ClusterSelector::fork() const {
  return std::unique_ptr<Selector>(new ClusterSelector(*this));
}

}  // namespace strata::index
