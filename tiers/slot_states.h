// tiers/slot_states.h - the states that a slot of an arena goes through. Every transition is here,
// and every transition is checked: a wrong one is a bug, never a wait.
//
//            begin_fill              filled              remove_reader (the last one)
//     free ------------> filling ------------> resident ------------------------------> free
//      ^                 |  |  |               (1..n readers; add_reader)
//      |    abandon_fill |  |  | begin_evict            evicted
//      +-----------------+  |  +------------> evicting ------------> free
//      |                    | quarantine          | quarantine
//      |                    v                     |
//      +-------------- quarantined <--------------+
//         given_back
//
// filling: a device or the CPU writes the slot. evicting: a device reads it on its way to a file.
// quarantined: a transfer did not end before its deadline; the device may still touch the bytes,
// so the slot is lost to everybody until the completion comes, and counts against its budget.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace strata::tiers {

enum class SlotState : uint8_t { kFree, kFilling, kResident, kEvicting, kQuarantined };

std::string_view slot_state_name(SlotState state);

/// Neighbours.
struct SlotRun {
  uint32_t first = 0, n = 0;
};

/// The states of n slots, which are numbered from `first` on. Not thread-safe. Nothing is allocated
/// after the constructor.
class SlotStates {
 public:
  explicit SlotStates(uint32_t n_slots, uint32_t first = 0);

  uint32_t size() const { return static_cast<uint32_t>(slots_.size()); }
  uint32_t n_free() const { return static_cast<uint32_t>(free_.size()); }
  uint32_t n_quarantined() const { return n_quarantined_; }
  SlotState state(uint32_t slot) const;
  uint32_t readers(uint32_t slot) const;
  /// Counts the fills of a slot: a ticket or lease of an earlier one is found out.
  uint32_t generation(uint32_t slot) const;

  /// The first n neighbours that are free, or in `also`; where there are not as many, the most.
  SlotRun longest_run(uint32_t n, SlotState also = SlotState::kFree) const;

  /// Takes any free slot (n_free() > 0) and begins to fill it.
  uint32_t begin_fill();
  /// Likewise this one where it is free, else any.
  uint32_t begin_fill_near(uint32_t wanted);
  void filled(uint32_t slot);        // one reader
  void abandon_fill(uint32_t slot);  // the bytes are worth nothing
  void add_reader(uint32_t slot);
  void remove_reader(uint32_t slot);
  void begin_evict(uint32_t slot);
  void evicted(uint32_t slot);
  void quarantine(uint32_t slot);
  void given_back(uint32_t slot);

 private:
  struct Slot {
    SlotState state = SlotState::kFree;
    uint32_t readers = 0;
    uint32_t generation = 0;
  };
  bool has(uint32_t slot) const { return slot >= first_ && slot - first_ < slots_.size(); }
  const Slot& at(uint32_t slot) const;
  Slot& in_state(uint32_t slot, SlotState wanted, const char* transition);
  void set_free(uint32_t slot);
  uint32_t first_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;  // a stack: the slot that was used last is still in the caches
  uint32_t n_quarantined_ = 0;
};

}  // namespace strata::tiers
