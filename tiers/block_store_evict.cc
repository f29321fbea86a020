// tiers/block_store_evict.cc - what leaves DRAM, and when.
#include <algorithm>

#include "base/check.h"
#include "tiers/block_store.h"

namespace strata::tiers {

/// Of a layer's resident extents, those that the last step has not frozen.
size_t BlockStore::n_before_last_step(const std::vector<ExtentId>& resident) const {
  size_t n = resident.size();
  while (n > 0 && is_of_last_step(extent(resident[n - 1]))) --n;
  return n;
}

/// Of set_first_victims(): of the layer with most of them the latest.
ExtentId BlockStore::first_victim(bool has_last_step) const {
  ExtentId last = kNoExtent;
  uint32_t n_most = 0;
  for (uint32_t layer = 0; layer < first_victims_.size(); ++layer) {
    const auto& resident = resident_[layer];
    const size_t n = has_last_step ? resident.size() : n_before_last_step(resident);
    ExtentId last_of_layer = kNoExtent;
    uint32_t n_of_layer = 0;
    for (size_t i = 0; i < n; ++i) {
      if (extent(resident[i]).first_pos >= first_victims_[layer]) continue;
      last_of_layer = resident[i];
      ++n_of_layer;
    }
    if (n_of_layer <= n_most) continue;
    n_most = n_of_layer;
    last = last_of_layer;
  }
  return last;
}

ExtentId BlockStore::victim() const {
  for (const bool has_last_step : {false, true}) {
    if (const ExtentId first = first_victim(has_last_step); first != kNoExtent) return first;
    const std::vector<ExtentId>* most = nullptr;
    size_t n_most = 0;
    for (const auto& of_layer : resident_) {
      const size_t n = has_last_step ? of_layer.size() : n_before_last_step(of_layer);
      if (n <= n_most) continue;
      n_most = n;
      most = &of_layer;
    }
    // Of a layer with three or more, the last but one; with two, the last; the first goes last.
    if (most != nullptr) return (*most)[n_most > 2 ? n_most - 2 : n_most - 1];
  }
  return kNoExtent;
}

bool BlockStore::is_being_written(ExtentId id) const {
  return std::ranges::any_of(writes_, [&](const auto& write) { return write.first == id; });
}

/// Which frozen block is in a slot; kNoBlock: none.
void BlockStore::set_slot_block(SlotId slot, BlockId frozen) {
  BlockId& held = slot_blocks_[static_cast<uint32_t>(slot)];
  n_frozen_slots_ += frozen == kNoBlock ? 0 : 1;
  n_frozen_slots_ -= held == kNoBlock ? 0 : 1;
  held = frozen;
}

/// The block, which is frozen, has this slot from now on.
void BlockStore::give_slot(BlockId block, SlotId slot) {
  Block& of = record(block);
  if (of.read != kNoRead) drop_read(of.read);
  of.slot = slot;
  set_slot_block(slot, block);
  is_used_[static_cast<uint32_t>(slot)] = 1;
}

void BlockStore::leave_slot(BlockId block) {
  Block& of = record(block);
  pool_.release(of.slot);
  set_slot_block(of.slot, kNoBlock);
  of.slot = kNoSlot;
}

/// n blocks of the extent have got slots.
void BlockStore::blocks_came(ExtentId id, uint32_t n) {
  Extent& of = extent(id);
  auto& resident = resident_[of.layer];
  // What the last step froze stays behind everything else.
  if (of.n_resident == 0) {
    const size_t at = is_of_last_step(of) ? resident.size() : n_before_last_step(resident);
    resident.insert(resident.begin() + static_cast<int64_t>(at), id);
  }
  of.n_resident += n;
  count_away(of);
}

/// n blocks of the extent have left their slots.
void BlockStore::blocks_left(ExtentId id, uint32_t n) {
  Extent& of = extent(id);
  of.n_resident -= n;
  if (n > 0 && !of.lease.is_held()) of.is_accepted = false;  // it was read into those slots
  if (n > 0 && of.n_resident == 0) std::erase(resident_[of.layer], id);
  count_away(of);
}

/// Pinned blocks stay.
void BlockStore::evict(ExtentId id) {
  uint32_t n = 0;
  for (const BlockId block : extent(id).blocks) {
    if (block == kNoBlock || !is_resident(block) || record(block).pins > 0) continue;
    leave_slot(block);
    ++n;
  }
  blocks_left(id, n);
  ++counts_.extents_evicted;
}

void BlockStore::leave_partly_resident(BlockId block) {
  const ExtentId id = extent_of(block);
  if (id != kNoExtent && extent(id).is_away && extent(id).n_resident > 0) evict(id);
}

void BlockStore::begin_step(ReadGrain grain) {
  STRATA_CHECK(grain == ReadGrain::kBlocks || n_pins_ == 0, "%lu blocks are pinned",
               static_cast<unsigned long>(n_pins_));
  ++step_;
  grain_ = grain;
}

bool BlockStore::make_room(uint64_t n_slots) {
  if (pool_.n_free() >= n_slots) return true;
  if (!spill_) return false;
  collect_writes();
  // What was asked for and is not wanted any more comes back without anything that is.
  while (pool_.n_free() < n_slots && wait_for_lost_slots()) {
  }
  while (pool_.n_free() < n_slots) {
    const bool goes_on = grain_ == ReadGrain::kBlocks ? evict_block() : evict_extent();
    if (!goes_on) return false;
  }
  return true;
}

/// Evicts the next victim, or waits for its write. False where neither is possible.
bool BlockStore::evict_extent() {
  const ExtentId id = victim();
  if (id == kNoExtent) return false;
  if (is_being_written(id)) return wait_for_transfer();
  evict(id);
  return true;
}

/// Likewise.
bool BlockStore::evict_block() {
  BlockId block = unused_block(false);
  if (block == kNoBlock) block = unused_block(true);
  if (block == kNoBlock) return false;
  const ExtentId id = extent_of(block);
  if (is_being_written(id)) return wait_for_transfer();
  leave_slot(block);
  blocks_left(id, 1);
  ++counts_.blocks_evicted;
  return true;
}

/// A block that may leave DRAM, by a clock: its hand goes round the slots, past those that were
/// used since it came by last, and stops at the victim. The first round may find all of them used.
BlockId BlockStore::unused_block(bool has_last_step) {
  for (uint64_t n = 0; n < 2 * slot_blocks_.size(); ++n) {
    const BlockId block = slot_blocks_[clock_hand_];
    if (block != kNoBlock && is_used_[clock_hand_] == 0 && record(block).pins == 0) {
      const Extent& of = extent(extent_of(block));
      if (has_last_step || !is_of_last_step(of)) return block;
    }
    is_used_[clock_hand_] = 0;
    if (++clock_hand_ == slot_blocks_.size()) clock_hand_ = 0;
  }
  return kNoBlock;
}

}  // namespace strata::tiers
