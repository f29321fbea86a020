#include "index/rabitq_selector.h"

#include <array>
#include <cstring>

#include "base/check.h"
#include "base/checked_math.h"

namespace strata::index {

RabitqSelector::RabitqSelector(const KvLayout& layout, const KernelTable& kernels,
                               std::shared_ptr<TileMemory> memory, uint32_t n_streams, Tail tail)
    : TiledSelector(layout, kernels, std::move(memory), rabitq_tile_bytes(layout.head_dim),
                    n_streams, tail) {
  STRATA_CHECK(layout.head_dim % 8 == 0 && layout.head_dim <= kRabitqHeadDimMax, "head_dim=%u",
               layout.head_dim);
}

void RabitqSelector::observe(StreamIdx stream, uint32_t block_idx, const std::byte* block) {
  alignas(64) std::array<float, size_t{kRabitqHeadDimMax} * kBlockPositions> keys;
  std::byte* tile = open_tile(stream, block_idx);
  // Blocks of an extent come in order, and what a slot held before is no one's.
  if (block_idx % kExtentBlocks == 0) std::memset(tile, 0, rabitq_tile_bytes(layout_.head_dim));
  kernels_->index.load_k(layout_, block, keys.data());
  kernels_->index.rabitq_encode({.keys = keys.data(),
                                 .head_dim = layout_.head_dim,
                                 .block = block_idx % kExtentBlocks,
                                 .tile = tile});
  observe_values(stream, block_idx, block);
}

uint64_t RabitqSelector::scratch_floats(uint32_t n_queries) const {
  // Queries side by side; each query's codes, scale and sum.
  const uint64_t code_floats =
      uint64_t{rabitq_groups(layout_.head_dim)} * kRabitqGroup / sizeof(float);
  return uint64_t{layout_.head_dim} * kBlockPositions + n_queries * (code_floats + 2);
}

void RabitqSelector::estimate(const EstimateArgs& args) const {
  check_blocks(args);
  const uint64_t code_bytes = uint64_t{rabitq_groups(layout_.head_dim)} * kRabitqGroup;
  float* columns = args.scratch;
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
  kernels_->index.rabitq_scan({.tiles = table_.tiles(args.stream).data() + first_tile,
                               .n_tiles = n_tiles,
                               .head_dim = layout_.head_dim,
                               .codes = reinterpret_cast<const int8_t*>(codes),
                               .scales = scales,
                               .sums = reinterpret_cast<const int32_t*>(sums),
                               .n_queries = args.n_queries,
                               .block_scores = args.log_weights + args.first_block,
                               .score_stride = args.weight_stride});
}

std::unique_ptr<Selector> RabitqSelector::fork() const {
  return std::unique_ptr<Selector>(new RabitqSelector(*this));
}

}  // namespace strata::index
