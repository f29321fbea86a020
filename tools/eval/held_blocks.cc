#include "tools/eval/held_blocks.h"

#include "base/check.h"

namespace strata::eval {
namespace {

constexpr uint32_t kNoSlot = UINT32_MAX;

}  // namespace

HeldBlocks::HeldBlocks(uint32_t n_streams, uint64_t n_slots) : slots_of_(n_streams) {
  STRATA_CHECK(n_slots > 0 && n_slots < kNoSlot, "%lu slots", static_cast<unsigned long>(n_slots));
  slots_.resize(n_slots);
}

bool HeldBlocks::holds(uint32_t stream, uint32_t block) const {
  const auto& slots = slots_of_[stream];
  return block < slots.size() && slots[block] != kNoSlot;
}

void HeldBlocks::put(uint32_t stream, uint32_t block) {
  if (holds(stream, block)) {
    slots_[slots_of_[stream][block]].is_used = true;
    return;
  }
  while (slots_[hand_].is_taken && slots_[hand_].is_used) {
    slots_[hand_].is_used = false;
    if (++hand_ == slots_.size()) hand_ = 0;
  }
  Slot& slot = slots_[hand_];
  if (slot.is_taken) slots_of_[slot.stream][slot.block] = kNoSlot;
  slot = {stream, block, true, true};
  auto& slots = slots_of_[stream];
  if (block >= slots.size()) slots.resize(block + 1, kNoSlot);
  slots[block] = static_cast<uint32_t>(hand_);
  if (++hand_ == slots_.size()) hand_ = 0;
}

std::span<const uint32_t> HeldBlocks::use(uint32_t stream, std::span<const uint32_t> chosen) {
  missing_.clear();
  for (const uint32_t block : chosen)
    if (holds(stream, block))
      put(stream, block);
    else
      missing_.push_back(block);
  for (const uint32_t block : missing_) put(stream, block);
  return missing_;
}

void WeighedBlocks::make_room() {
  if (n_held_ < n_slots_ || order_.empty()) return;
  const auto [weight, stream, block] = *order_.begin();
  order_.erase(order_.begin());
  held_[stream].erase(block);
  --n_held_;
}

void WeighedBlocks::put(uint32_t stream, uint32_t block) {
  if (held_[stream].contains(block)) return;
  make_room();
  if (n_held_ == n_slots_) return;
  constexpr double kNew = 1;  // a share's most: its weight is not known yet
  held_[stream][block] = kNew;
  order_.emplace(kNew, stream, block);
  ++n_held_;
}

uint64_t WeighedBlocks::use(uint32_t stream, std::span<const uint32_t> chosen,
                            std::span<const double> weights) {
  auto& held = held_[stream];
  STRATA_CHECK(held.empty() || held.rbegin()->first < weights.size(), "weights of %zu blocks",
               weights.size());
  for (auto& [block, weight] : held) {
    order_.erase({weight, stream, block});
    weight = weights[block];
    order_.emplace(weight, stream, block);
  }
  for (const uint32_t block : chosen) order_.erase({weights[block], stream, block});  // they stay
  uint64_t n_missing = 0;
  for (const uint32_t block : chosen) {
    if (held.contains(block)) continue;
    ++n_missing;
    make_room();
    if (n_held_ == n_slots_) continue;  // all of it is in use
    held[block] = weights[block];
    ++n_held_;
  }
  for (const uint32_t block : chosen)
    if (held.contains(block)) order_.emplace(weights[block], stream, block);
  return n_missing;
}

}  // namespace strata::eval
