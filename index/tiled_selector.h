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

inline constexpr uint32_t kMaxHeadDim = 1024;  // of what a selector encodes a block of

/// Whether tiles end in the mean values of their blocks (base/index_kernels.h): 8 bits per
/// dimension, as good as f32 on real traces (docs/adr/0014-tail.md).
enum class Tail : uint8_t { kNone, kMeanValues };

constexpr uint64_t tail_tile_bytes(Tail tail, uint32_t head_dim) {
  return tail == Tail::kNone ? 0 : value_tile_bytes(head_dim);
}

class TiledSelector : public Selector {
 public:
  void open_blocks(uint32_t end_block) override { table_.open_blocks(end_block); }
  uint32_t n_blocks() const override { return table_.n_blocks(); }
  uint64_t held_bytes(uint64_t n_blocks) const override {
    return div_up(n_blocks, kExtentBlocks) * table_.tile_bytes();
  }
  bool has_tail() const override { return tail_ != Tail::kNone; }
  void estimate_tail(const TailArgs& args) const override;
  void truncate(uint32_t n_blocks) override { table_.truncate(n_blocks); }
  uint64_t extent_row_bytes() const override { return table_.tile_bytes(); }
  std::span<const std::byte> rows(StreamIdx stream, uint32_t extent) const override {
    return {table_.tiles(stream)[extent], table_.tile_bytes()};
  }
  bool loads_in_any_order() const override { return true; }
  void load_segment(StreamIdx stream, uint32_t segment, std::span<const std::byte> bytes) override {
    STRATA_CHECK(bytes.size() == table_.tile_bytes(), "%zu bytes of rows", bytes.size());
    std::memcpy(table_.tile(stream, segment), bytes.data(), bytes.size());
  }

 protected:
  /// tile_bytes is that of the method, without mean values.
  TiledSelector(const KvLayout& layout, const KernelTable& kernels,
                std::shared_ptr<TileMemory> memory, uint64_t tile_bytes, uint32_t n_streams,
                Tail tail = Tail::kNone)
      : layout_(layout),
        kernels_(&kernels),
        table_(std::move(memory), n_streams),
        tail_(tail),
        value_offset_(tile_bytes) {
    STRATA_CHECK(table_.tile_bytes() == tile_bytes + tail_tile_bytes(tail, layout.head_dim),
                 "tiles of %lu bytes", static_cast<unsigned long>(table_.tile_bytes()));
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

  /// Of a block that is observed; nothing where no mean values are kept.
  void observe_values(StreamIdx stream, uint32_t block_idx, const std::byte* block);

  const KvLayout layout_;
  const KernelTable* const kernels_;
  TileTable table_;

 private:
  const Tail tail_;
  const uint64_t value_offset_;  // in each tile
};

}  // namespace strata::index
