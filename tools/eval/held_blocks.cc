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

}  // namespace strata::eval
