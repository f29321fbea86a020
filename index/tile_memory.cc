#include "index/tile_memory.h"

#include <cstring>

#include "base/check.h"

namespace strata::index {

TileMemory::TileMemory(uint64_t tile_bytes, uint32_t n_slots)
    : tile_bytes_(tile_bytes),
      memory_(HostMemory::reserve(tile_bytes * kSlotTiles * n_slots)),
      references_(n_slots, 0),
      slot_editions_(n_slots),
      tile_editions_(uint64_t{n_slots} * kSlotTiles, 0) {
  STRATA_CHECK(tile_bytes % 64 == 0, "tiles of %lu bytes", static_cast<unsigned long>(tile_bytes));
  for (uint32_t slot = n_slots; slot > 0; --slot) free_.push_back(slot - 1);
}

uint32_t& TileMemory::references(TileSlot slot) {
  const auto idx = static_cast<uint32_t>(slot);
  STRATA_CHECK(idx < references_.size(), "slot %u of %zu", idx, references_.size());
  return references_[idx];
}

TileSlot TileMemory::take() {
  STRATA_CHECK(!free_.empty(), "no free slot of %zu", references_.size());
  const auto slot = static_cast<TileSlot>(free_.back());
  free_.pop_back();
  references(slot) = 1;
  return slot;
}

void TileMemory::add_reference(TileSlot slot) {
  STRATA_CHECK(references(slot) > 0, "slot %u is free", static_cast<uint32_t>(slot));
  ++references(slot);
}

void TileMemory::release(TileSlot slot) {
  STRATA_CHECK(references(slot) > 0, "slot %u is free", static_cast<uint32_t>(slot));
  if (--references(slot) == 0) free_.push_back(static_cast<uint32_t>(slot));
}

bool TileMemory::is_shared(TileSlot slot) const {
  return references_[static_cast<uint32_t>(slot)] > 1;
}

uint64_t TileMemory::tile_number(TileSlot slot, uint32_t idx) const {
  STRATA_CHECK(idx < kSlotTiles, "tile %u", idx);
  return uint64_t{static_cast<uint32_t>(slot)} * kSlotTiles + idx;
}

const std::byte* TileMemory::tile(TileSlot slot, uint32_t idx) const {
  return memory_.data() + tile_number(slot, idx) * tile_bytes_;
}

std::byte* TileMemory::write_tile(TileSlot slot, uint32_t idx) {
  const uint64_t number = tile_number(slot, idx);
  std::atomic<uint64_t>& of_slot = slot_editions_[static_cast<uint32_t>(slot)];
  tile_editions_[number] = of_slot.fetch_add(1, std::memory_order_relaxed) + 1;
  return memory_.data() + number * tile_bytes_;
}

uint64_t TileMemory::edition(TileSlot slot) const {
  return slot_editions_[static_cast<uint32_t>(slot)].load(std::memory_order_relaxed);
}

uint64_t TileMemory::edition(TileSlot slot, uint32_t idx) const {
  return tile_editions_[tile_number(slot, idx)];
}

TileSlot TileMemory::replace_by_copy(TileSlot slot, uint32_t n_tiles) {
  const TileSlot copy = take();
  for (uint32_t i = 0; i < n_tiles; ++i)
    std::memcpy(write_tile(copy, i), tile(slot, i), tile_bytes_);
  release(slot);
  return copy;
}

}  // namespace strata::index
