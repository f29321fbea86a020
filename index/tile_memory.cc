#include "index/tile_memory.h"

#include <cstring>

#include "base/check.h"

namespace strata::index {

TileMemory::TileMemory(uint64_t tile_bytes, uint32_t n_slots)
    : tile_bytes_(tile_bytes),
      memory_(HostMemory::reserve(tile_bytes * kSlotTiles * n_slots)),
      references_(n_slots, 0) {
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

std::byte* TileMemory::tile(TileSlot slot, uint32_t idx) const {
  STRATA_CHECK(idx < kSlotTiles, "tile %u", idx);
  return memory_.data() + (uint64_t{static_cast<uint32_t>(slot)} * kSlotTiles + idx) * tile_bytes_;
}

TileSlot TileMemory::replace_by_copy(TileSlot slot) {
  const TileSlot copy = take();
  std::memcpy(tile(copy, 0), tile(slot, 0), tile_bytes_ * kSlotTiles);
  release(slot);
  return copy;
}

}  // namespace strata::index
