// index/tile_memory.h - memory for index rows: an arena of slots of a stated budget, shared by the
// indexes of all sequences. Why: rows of a stream are read from begin to end for every token, so
// they lie in long runs (a slot holds 16 extents, 4,096 positions); forks share slots.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/host_memory.h"

namespace strata::index {

enum class TileSlot : uint32_t {};

/// Reference-counted slots, whose bytes are the holders' to share. Threads: one at a time takes,
/// shares, copies and releases slots; meanwhile, of slots that are held, several may call
/// write_tile() for tiles of different numbers, of one slot as well.
///
/// Whoever has a copy of tiles elsewhere knows by their editions whether it still is one: a tile's
/// is another whenever its bytes may be, 0 where they never were written, and a slot's is another
/// whenever that of one of its tiles is. They are read of slots of which nobody writes a tile.
class TileMemory {
 public:
  static constexpr uint32_t kSlotTiles = 16;

  /// Reserves n_slots * slot_bytes, committed when first touched. tile_bytes is a multiple of 64.
  /// Errors: kOutOfMemory.
  TileMemory(uint64_t tile_bytes, uint32_t n_slots);

  uint64_t tile_bytes() const { return tile_bytes_; }
  /// All slots, one behind the other.
  std::span<std::byte> arena() const { return {memory_.data(), memory_.size()}; }
  uint32_t n_slots() const { return static_cast<uint32_t>(references_.size()); }
  uint32_t n_free() const { return static_cast<uint32_t>(free_.size()); }

  /// A slot with one reference; there is a free one.
  TileSlot take();
  void add_reference(TileSlot slot);
  void release(TileSlot slot);
  bool is_shared(TileSlot slot) const;
  const std::byte* tile(TileSlot slot, uint32_t idx) const;
  /// The same, to be written before anyone reads the edition that it has from now on.
  std::byte* write_tile(TileSlot slot, uint32_t idx);
  uint64_t edition(TileSlot slot) const;
  uint64_t edition(TileSlot slot, uint32_t idx) const;
  /// A slot with one reference and copies of the first n_tiles tiles, in place of the caller's
  /// reference. The others are as those of a slot just taken.
  TileSlot replace_by_copy(TileSlot slot, uint32_t n_tiles);
  /// Of editions, beside the slots.
  static uint64_t edition_bytes(uint64_t n_slots) {
    return n_slots * (kSlotTiles + 1) * sizeof(uint64_t);
  }

 private:
  uint32_t& references(TileSlot slot);
  uint64_t tile_number(TileSlot slot, uint32_t idx) const;

  uint64_t tile_bytes_;
  HostMemory memory_;
  std::vector<uint32_t> references_;
  std::vector<uint32_t> free_;
  std::vector<std::atomic<uint64_t>> slot_editions_;  // those who write tiles of a slot share one
  std::vector<uint64_t> tile_editions_;  // [n_slots * kSlotTiles], each of who writes the tile
};

}  // namespace strata::index
