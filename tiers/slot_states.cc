#include "tiers/slot_states.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"

namespace strata::tiers {

std::string_view slot_state_name(SlotState state) {
  switch (state) {
    case SlotState::kFree:
      return "free";
    case SlotState::kFilling:
      return "filling";
    case SlotState::kResident:
      return "resident";
    case SlotState::kEvicting:
      return "evicting";
    case SlotState::kQuarantined:
      return "quarantined";
  }
  return "unknown";
}

SlotStates::SlotStates(uint32_t n_slots, uint32_t first) : first_(first), slots_(n_slots) {
  free_.reserve(n_slots);
  for (uint32_t i = n_slots; i-- > 0;) free_.push_back(first + i);
}

const SlotStates::Slot& SlotStates::at(uint32_t slot) const {
  STRATA_CHECK(has(slot), "slot %u of %zu from %u on", slot, slots_.size(), first_);
  return slots_[slot - first_];
}

SlotStates::Slot& SlotStates::in_state(uint32_t slot, SlotState wanted, const char* transition) {
  STRATA_CHECK(state(slot) == wanted, "%s: slot %u is %s, not %s", transition, slot,
               std::string(slot_state_name(state(slot))).c_str(),
               std::string(slot_state_name(wanted)).c_str());
  return slots_[slot - first_];
}

SlotState SlotStates::state(uint32_t slot) const { return at(slot).state; }

uint32_t SlotStates::readers(uint32_t slot) const { return at(slot).readers; }

uint32_t SlotStates::generation(uint32_t slot) const { return at(slot).generation; }

void SlotStates::set_free(uint32_t slot) {
  slots_[slot - first_].state = SlotState::kFree;
  free_.push_back(slot);
}

uint32_t SlotStates::begin_fill() {
  STRATA_CHECK(!free_.empty(), "no slot of %zu is free", slots_.size());
  const uint32_t slot = free_.back();
  Slot& of = in_state(slot, SlotState::kFree, "begin_fill");
  free_.pop_back();
  of.state = SlotState::kFilling;
  ++of.generation;
  return slot;
}

uint32_t SlotStates::begin_fill_near(uint32_t wanted) {
  // Linear, and there are some hundreds of slots; each is about to hold what a disk reads.
  if (has(wanted) && state(wanted) == SlotState::kFree)
    std::swap(*std::ranges::find(free_, wanted), free_.back());
  return begin_fill();
}

SlotRun SlotStates::longest_run(uint32_t n, SlotState also) const {
  SlotRun longest{.first = first_, .n = 0};
  uint32_t n_here = 0;
  for (uint32_t at = 0; at < slots_.size() && longest.n < n; ++at) {
    const SlotState state = slots_[at].state;
    n_here = state == SlotState::kFree || state == also ? n_here + 1 : 0;
    if (n_here > longest.n) longest = {.first = first_ + at + 1 - n_here, .n = n_here};
  }
  return longest;
}

void SlotStates::filled(uint32_t slot) {
  Slot& of = in_state(slot, SlotState::kFilling, "filled");
  of.state = SlotState::kResident;
  of.readers = 1;
}

void SlotStates::abandon_fill(uint32_t slot) {
  in_state(slot, SlotState::kFilling, "abandon_fill");
  set_free(slot);
}

void SlotStates::add_reader(uint32_t slot) {
  ++in_state(slot, SlotState::kResident, "add_reader").readers;
}

void SlotStates::remove_reader(uint32_t slot) {
  if (--in_state(slot, SlotState::kResident, "remove_reader").readers == 0) set_free(slot);
}

void SlotStates::begin_evict(uint32_t slot) {
  in_state(slot, SlotState::kFilling, "begin_evict").state = SlotState::kEvicting;
}

void SlotStates::evicted(uint32_t slot) {
  in_state(slot, SlotState::kEvicting, "evicted");
  set_free(slot);
}

void SlotStates::quarantine(uint32_t slot) {
  const SlotState now = state(slot);
  STRATA_CHECK(now == SlotState::kFilling || now == SlotState::kEvicting,
               "quarantine: slot %u is %s", slot, std::string(slot_state_name(now)).c_str());
  slots_[slot - first_].state = SlotState::kQuarantined;
  ++n_quarantined_;
}

void SlotStates::given_back(uint32_t slot) {
  in_state(slot, SlotState::kQuarantined, "given_back");
  --n_quarantined_;
  set_free(slot);
}

}  // namespace strata::tiers
