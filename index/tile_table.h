// index/tile_table.h - the index rows of one sequence: for each stream a tile per extent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/kv_layout.h"
#include "index/selector.h"
#include "index/tile_memory.h"

namespace strata::index {

/// Tiles of n_streams streams, which all have the same number of blocks. Slots that a fork shares
/// are copied when blocks are opened in them. Not thread-safe but for tile() and what is const.
class TileTable {
 public:
  TileTable(std::shared_ptr<TileMemory> memory, uint32_t n_streams);
  TileTable(const TileTable& other);  // shares every slot
  TileTable& operator=(const TileTable&) = delete;
  ~TileTable();

  uint32_t n_blocks() const { return n_blocks_; }
  uint64_t tile_bytes() const { return memory_->tile_bytes(); }

  /// Errors: kDoesNotFit, and nothing has changed.
  void open_blocks(uint32_t end_block);
  void truncate(uint32_t n_blocks);

  /// To be written: of an extent with opened blocks.
  std::byte* tile(StreamIdx stream, uint32_t extent);
  const std::byte* tile(StreamIdx stream, uint32_t extent) const;
  /// The tiles of extents [0, ceil(n_blocks / 8)), for kernels.
  std::span<const std::byte* const> tiles(StreamIdx stream) const;
  /// Where they lie: slot i holds tiles [i * TileMemory::kSlotTiles, ...), the last maybe fewer.
  std::span<const TileSlot> slots(StreamIdx stream) const;
  const TileMemory& memory() const { return *memory_; }

 private:
  struct Stream {
    std::vector<TileSlot> slots;
    std::vector<const std::byte*> tiles;  // of every tile of every slot
  };
  uint32_t n_slots_for(uint32_t n_blocks) const;
  void list_tiles(Stream& stream, uint32_t slot_idx);

  std::shared_ptr<TileMemory> memory_;
  std::vector<Stream> streams_;
  uint32_t n_blocks_ = 0;
};

/// Slots that one stream of n_blocks blocks fills.
constexpr uint32_t tile_slots(uint32_t n_blocks) {
  constexpr uint32_t kSlotBlocks = TileMemory::kSlotTiles * kExtentBlocks;
  return (n_blocks + kSlotBlocks - 1) / kSlotBlocks;
}

}  // namespace strata::index
