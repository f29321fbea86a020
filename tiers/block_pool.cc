#include "tiers/block_pool.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "tiers/poison.h"

namespace strata::tiers {
namespace {

uint32_t number(SlotId slot) { return static_cast<uint32_t>(slot); }

}  // namespace

BlockPool::BlockPool(uint64_t budget_bytes, uint32_t block_bytes)
    : budget_bytes_(budget_bytes), block_bytes_(block_bytes) {
  STRATA_CHECK(block_bytes > 0 && block_bytes % 64 == 0, "block_bytes=%u", block_bytes);
  const uint64_t n_slots = budget_bytes / block_bytes;
  if (n_slots == 0)
    throw Error(ErrorCode::kDoesNotFit,
                "a KV budget of " + std::to_string(budget_bytes) +
                    " bytes does not hold one block of " + std::to_string(block_bytes) + " bytes",
                "--kv-dram", "raise --kv-dram");
  n_slots_ = static_cast<uint32_t>(std::min<uint64_t>(n_slots, UINT32_MAX - 1));
  n_free_ = n_slots_;
  memory_ = HostMemory::reserve(uint64_t{n_slots_} * block_bytes);
  is_taken_.assign(n_slots_, 0);
  const auto n_runs = static_cast<uint32_t>(div_up(n_slots_, kRunSlots));
  run_used_.assign(n_runs, 0);
  free_runs_.reserve(n_runs);
  for (uint32_t run = n_runs; run-- > 0;)
    free_runs_.push_back(run);  // the stack hands out low addresses first
  is_listed_.assign(n_runs, 1);
}

void BlockPool::mark_used(uint32_t slot) {
  poison({address(static_cast<SlotId>(slot)), block_bytes_});  // a slot that never was used is 0
  is_taken_[slot] = 1;
  ++run_used_[slot / kRunSlots];
  --n_free_;
  peak_used_ = std::max(peak_used_, n_slots_ - n_free_);
}

std::optional<SlotId> BlockPool::take(SlotId previous) {
  if (n_free_ == 0) return std::nullopt;
  const uint32_t after = number(previous) + 1;
  if (previous != kNoSlot && is_taken(previous) && after < n_slots_ && after % kRunSlots != 0 &&
      is_taken_[after] == 0) {
    mark_used(after);
    return static_cast<SlotId>(after);
  }
  while (!free_runs_.empty()) {
    const uint32_t run = free_runs_.back();
    free_runs_.pop_back();
    is_listed_[run] = 0;
    if (run_used_[run] > 0) continue;
    mark_used(run * kRunSlots);
    return static_cast<SlotId>(run * kRunSlots);
  }
  // Only part-used runs are left: the lowest free slot. A linear look, but only when memory is all
  // but full.
  while (is_taken_[first_free_hint_] != 0) first_free_hint_ = (first_free_hint_ + 1) % n_slots_;
  const uint32_t slot = first_free_hint_;
  mark_used(slot);
  return static_cast<SlotId>(slot);
}

/// From where the last look ended, so that what is taken in turn lies side by side; each run is
/// looked at once.
std::optional<SlotId> BlockPool::take_runs(uint32_t n_runs) {
  STRATA_CHECK(n_runs > 0, "no run");
  const uint32_t n_whole = n_slots_ / kRunSlots;  // the last run may be shorter
  if (n_runs > n_whole || n_free_ < n_runs * kRunSlots) return std::nullopt;
  uint32_t n_found = 0;
  for (uint32_t n_looks = 0; n_looks < n_whole + n_runs; ++n_looks) {
    if (next_run_ >= n_whole) next_run_ = n_found = 0;
    n_found = run_used_[next_run_++] == 0 ? n_found + 1 : 0;
    if (n_found < n_runs) continue;
    const uint32_t first = (next_run_ - n_runs) * kRunSlots;
    for (uint32_t slot = first; slot < first + n_runs * kRunSlots; ++slot) mark_used(slot);
    return static_cast<SlotId>(first);
  }
  return std::nullopt;
}

void BlockPool::release(SlotId slot) {
  STRATA_CHECK(is_taken(slot), "slot %u is free", number(slot));
  is_taken_[number(slot)] = 0;
  poison({address(slot), block_bytes_});
  ++n_free_;
  const uint32_t run = number(slot) / kRunSlots;
  if (--run_used_[run] > 0 || is_listed_[run] != 0) return;
  free_runs_.push_back(run);
  is_listed_[run] = 1;
}

bool BlockPool::is_taken(SlotId slot) const {
  STRATA_CHECK(number(slot) < n_slots_, "slot %u of %u", number(slot), n_slots_);
  return is_taken_[number(slot)] != 0;
}

std::byte* BlockPool::address(SlotId slot) const {
  return memory_.data() + uint64_t{number(slot)} * block_bytes_;
}

SlotId BlockPool::slot_at(const std::byte* address) const {
  const auto offset = static_cast<uint64_t>(address - memory_.data());
  STRATA_CHECK(offset % block_bytes_ == 0 && offset / block_bytes_ < n_slots_,
               "no slot of %u begins at %lu", n_slots_, static_cast<unsigned long>(offset));
  return static_cast<SlotId>(offset / block_bytes_);
}

}  // namespace strata::tiers
