// tiers/block_store_evict.cc - what leaves DRAM, and when.
#include <algorithm>

#include "tiers/block_store.h"

namespace strata::tiers {

/// Of a layer's resident extents, those that the last step has not frozen.
size_t BlockStore::n_before_last_step(const std::vector<ExtentId>& resident) const {
  size_t n = resident.size();
  while (n > 0 && extent(resident[n - 1]).step + 1 >= step_) --n;
  return n;
}

ExtentId BlockStore::victim() const {
  for (const bool has_last_step : {false, true}) {
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

void BlockStore::evict(ExtentId id) {
  Extent& of = extent(id);
  for (const BlockId block : of.blocks) {
    if (block == kNoBlock || record(block).slot == kNoSlot) continue;
    pool_.release(record(block).slot);
    record(block).slot = kNoSlot;
  }
  of.n_resident = 0;
  set_away(of, true);
  std::erase(resident_[of.layer], id);
  ++counts_.extents_evicted;
}

void BlockStore::begin_step(ReadGrain grain) {
  ++step_;
  grain_ = grain;
}

bool BlockStore::make_room(uint64_t n_slots) {
  if (pool_.n_free() >= n_slots) return true;
  if (!spill_) return false;
  collect_writes();
  while (pool_.n_free() < n_slots) {
    const ExtentId id = victim();
    if (id == kNoExtent) return false;
    if (!is_being_written(id)) {
      evict(id);
    } else if (!wait_for_transfer()) {
      return false;
    }
  }
  return true;
}

}  // namespace strata::tiers
