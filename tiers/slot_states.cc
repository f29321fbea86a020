#include "tiers/slot_states.h"

#include <string>

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

SlotStates::SlotStates(uint32_t n_slots) : slots_(n_slots) {
  free_.reserve(n_slots);
  for (uint32_t slot = n_slots; slot-- > 0;) free_.push_back(slot);
}

SlotStates::Slot& SlotStates::in_state(uint32_t slot, SlotState wanted, const char* transition) {
  STRATA_CHECK(slot < slots_.size(), "slot %u of %zu", slot, slots_.size());
  STRATA_CHECK(slots_[slot].state == wanted, "%s: slot %u is %s, not %s", transition, slot,
               std::string(slot_state_name(slots_[slot].state)).c_str(),
               std::string(slot_state_name(wanted)).c_str());
  return slots_[slot];
}

SlotState SlotStates::state(uint32_t slot) const {
  STRATA_CHECK(slot < slots_.size(), "slot %u of %zu", slot, slots_.size());
  return slots_[slot].state;
}

uint32_t SlotStates::readers(uint32_t slot) const {
  STRATA_CHECK(slot < slots_.size(), "slot %u of %zu", slot, slots_.size());
  return slots_[slot].readers;
}

uint32_t SlotStates::generation(uint32_t slot) const {
  STRATA_CHECK(slot < slots_.size(), "slot %u of %zu", slot, slots_.size());
  return slots_[slot].generation;
}

void SlotStates::set_free(uint32_t slot) {
  slots_[slot].state = SlotState::kFree;
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
  slots_[slot].state = SlotState::kQuarantined;
  ++n_quarantined_;
}

void SlotStates::given_back(uint32_t slot) {
  in_state(slot, SlotState::kQuarantined, "given_back");
  --n_quarantined_;
  set_free(slot);
}

}  // namespace strata::tiers
