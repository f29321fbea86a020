// index/tiled_selector.h - what methods that keep a tile of rows per extent have in common.
#pragma once

#include <cstring>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/kernel_table.h"
#include "index/tile_table.h"

namespace strata::index {

class TiledSelector : public Selector {
 public:
  void open_blocks(uint32_t end_block) override { table_.open_blocks(end_block); }
  uint32_t n_blocks() const override { return table_.n_blocks(); }
  uint64_t estimate_bytes(uint64_t n_blocks) const override {
    return div_up(n_blocks, kExtentBlocks) * table_.tile_bytes();
  }
  void truncate(uint32_t n_blocks) override { table_.truncate(n_blocks); }
  uint64_t extent_row_bytes() const override { return table_.tile_bytes(); }
  std::span<const std::byte> rows(StreamIdx stream, uint32_t extent) const override {
    return {table_.tiles(stream)[extent], table_.tile_bytes()};
  }
  void load_segment(StreamIdx stream, uint32_t segment, std::span<const std::byte> bytes) override {
    STRATA_CHECK(bytes.size() == table_.tile_bytes(), "%zu bytes of rows", bytes.size());
    std::memcpy(table_.tile(stream, segment), bytes.data(), bytes.size());
  }

 protected:
  TiledSelector(const KvLayout& layout, const KernelTable& kernels,
                std::shared_ptr<TileMemory> memory, uint64_t tile_bytes, uint32_t n_streams)
      : layout_(layout), kernels_(&kernels), table_(std::move(memory), n_streams) {
    STRATA_CHECK(table_.tile_bytes() == tile_bytes, "tiles of %lu bytes",
                 static_cast<unsigned long>(table_.tile_bytes()));
  }
  TiledSelector(const TiledSelector&) = default;

  void check_blocks(const EstimateArgs& args) const {
    STRATA_CHECK(args.first_block % kExtentBlocks == 0 && args.first_block <= args.end_block &&
                     args.end_block <= n_blocks(),
                 "blocks [%u, %u) of %u", args.first_block, args.end_block, n_blocks());
  }
  std::byte* open_tile(StreamIdx stream, uint32_t block_idx) {
    STRATA_CHECK(block_idx < n_blocks(), "block %u of %u", block_idx, n_blocks());
    return table_.tile(stream, block_idx / kExtentBlocks);
  }

  const KvLayout layout_;
  const KernelTable* const kernels_;
  TileTable table_;
};

}  // namespace strata::index
