#include "tiers/slot_states.h"

#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>

namespace strata::tiers {
namespace {

struct Transition {
  const char* name;
  void (SlotStates::*run)(uint32_t);
};

constexpr std::array kTransitions = {
    Transition{"filled", &SlotStates::filled},
    Transition{"abandon_fill", &SlotStates::abandon_fill},
    Transition{"add_reader", &SlotStates::add_reader},
    Transition{"remove_reader", &SlotStates::remove_reader},
    Transition{"begin_evict", &SlotStates::begin_evict},
    Transition{"evicted", &SlotStates::evicted},
    Transition{"quarantine", &SlotStates::quarantine},
    Transition{"given_back", &SlotStates::given_back},
};

constexpr std::array kStates = {SlotState::kFree, SlotState::kFilling, SlotState::kResident,
                                SlotState::kEvicting, SlotState::kQuarantined};

/// Where the transition leads from `from` (of one reader), or nothing where it is a bug: the
/// drawing of tiers/slot_states.h as a table.
std::optional<SlotState> target(SlotState from, const std::string& transition) {
  using enum SlotState;
  struct Row {
    SlotState from;
    const char* transition;
    SlotState to;
  };
  static constexpr std::array kRows = {
      Row{kFilling, "filled", kResident},      Row{kFilling, "abandon_fill", kFree},
      Row{kFilling, "begin_evict", kEvicting}, Row{kFilling, "quarantine", kQuarantined},
      Row{kResident, "add_reader", kResident}, Row{kResident, "remove_reader", kFree},
      Row{kEvicting, "evicted", kFree},        Row{kEvicting, "quarantine", kQuarantined},
      Row{kQuarantined, "given_back", kFree},
  };
  for (const Row& row : kRows)
    if (row.from == from && row.transition == transition) return row.to;
  return std::nullopt;
}

/// Two slots, one of them in `state`; returns its number.
uint32_t bring_to(SlotStates& slots, SlotState state) {
  if (state == SlotState::kFree) return 1;
  const uint32_t slot = slots.begin_fill();
  if (state == SlotState::kResident) slots.filled(slot);
  if (state == SlotState::kEvicting) slots.begin_evict(slot);
  if (state == SlotState::kQuarantined) slots.quarantine(slot);
  return slot;
}

TEST(SlotStates, NeighboursAreTheFirstOfAsManyAsAreWanted) {
  SlotStates slots(10, 100);
  for (uint32_t i = 0; i < 10; ++i) slots.begin_fill();
  for (const uint32_t free : {101u, 103u, 104u, 106u, 107u, 108u}) slots.abandon_fill(free);
  const auto run_of = [&](uint32_t n, SlotState also = SlotState::kFree) {
    const SlotRun run = slots.longest_run(n, also);
    return std::pair(run.first, run.n);
  };
  EXPECT_EQ(run_of(1), std::pair(101u, 1u));
  EXPECT_EQ(run_of(2), std::pair(103u, 2u));
  EXPECT_EQ(run_of(3), std::pair(106u, 3u));
  EXPECT_EQ(run_of(4), std::pair(106u, 3u)) << "where there are not so many, the most";
  slots.begin_evict(105);
  EXPECT_EQ(run_of(4), std::pair(106u, 3u));
  EXPECT_EQ(run_of(4, SlotState::kEvicting), std::pair(103u, 4u));
  EXPECT_EQ(run_of(9, SlotState::kEvicting), std::pair(103u, 6u));
}

TEST(SlotStates, EveryTransitionOfTheDrawingLeadsWhereItSays) {
  uint32_t n_legal = 0;
  for (const SlotState from : kStates)
    for (const Transition& transition : kTransitions) {
      const auto to = target(from, transition.name);
      if (!to) continue;
      SCOPED_TRACE(std::string(slot_state_name(from)) + " " + transition.name);
      SlotStates slots(2);
      const uint32_t slot = bring_to(slots, from);
      (slots.*transition.run)(slot);
      EXPECT_EQ(slots.state(slot), *to);
      EXPECT_EQ(slots.n_free(), *to == SlotState::kFree ? 2u : 1u);
      EXPECT_EQ(slots.n_quarantined(), *to == SlotState::kQuarantined ? 1u : 0u);
      ++n_legal;
    }
  EXPECT_EQ(n_legal, 9u);
}

TEST(SlotStatesDeathTest, EveryOtherTransitionIsABug) {
  for (const SlotState from : kStates)
    for (const Transition& transition : kTransitions) {
      if (target(from, transition.name)) continue;
      SCOPED_TRACE(std::string(slot_state_name(from)) + " " + transition.name);
      SlotStates slots(2);
      const uint32_t slot = bring_to(slots, from);
      const std::string found =
          transition.name + std::string(": slot [01] is ") + std::string(slot_state_name(from));
      EXPECT_DEATH((slots.*transition.run)(slot), found);
    }
}

TEST(SlotStatesDeathTest, NoFreeSlotAndNoSuchSlotAreBugs) {
  SlotStates slots(1);
  EXPECT_DEATH(slots.filled(1), "slot 1 of 1");
  EXPECT_DEATH((void)slots.state(1), "slot 1 of 1");
  EXPECT_DEATH((void)slots.readers(1), "slot 1 of 1");
  EXPECT_DEATH((void)slots.generation(1), "slot 1 of 1");
  slots.begin_fill();
  EXPECT_DEATH(slots.begin_fill(), "no slot of 1 is free");
}

TEST(SlotStates, TheLastReaderFreesTheSlot) {
  SlotStates slots(1);
  const uint32_t slot = slots.begin_fill();
  slots.filled(slot);
  slots.add_reader(slot);
  EXPECT_EQ(slots.readers(slot), 2u);
  slots.remove_reader(slot);
  EXPECT_EQ(slots.state(slot), SlotState::kResident);
  slots.remove_reader(slot);
  EXPECT_EQ(slots.state(slot), SlotState::kFree);
  EXPECT_EQ(slots.readers(slot), 0u);
}

TEST(SlotStates, EveryFillHasANewGeneration) {
  SlotStates slots(1);
  EXPECT_EQ(slots.generation(0), 0u);
  for (uint32_t fill = 1; fill <= 3; ++fill) {
    EXPECT_EQ(slots.begin_fill(), 0u);
    EXPECT_EQ(slots.generation(0), fill);
    slots.abandon_fill(0);
    EXPECT_EQ(slots.generation(0), fill);
  }
}

TEST(SlotStates, CountsAgreeWithTheStatesInAnyOrder) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  constexpr uint32_t kSlots = 7;
  SlotStates slots(kSlots);
  for (uint32_t step = 0; step < 20'000; ++step) {
    const auto slot = static_cast<uint32_t>(random() % kSlots);
    const Transition& transition = kTransitions[random() % kTransitions.size()];
    if (random() % 4 == 0 && slots.n_free() > 0) {
      slots.begin_fill();
    } else if (target(slots.state(slot), transition.name)) {
      (slots.*transition.run)(slot);
    }
    uint32_t n_free = 0, n_quarantined = 0;
    for (uint32_t i = 0; i < kSlots; ++i) {
      n_free += slots.state(i) == SlotState::kFree ? 1u : 0u;
      n_quarantined += slots.state(i) == SlotState::kQuarantined ? 1u : 0u;
      ASSERT_EQ(slots.readers(i) > 0, slots.state(i) == SlotState::kResident);
    }
    ASSERT_EQ(slots.n_free(), n_free);
    ASSERT_EQ(slots.n_quarantined(), n_quarantined);
  }
}

TEST(SlotStates, ASlotThatIsWantedIsHandedOutWhereItIsFree) {
  SlotStates slots(4, 10);
  EXPECT_EQ(slots.begin_fill_near(12), 12u);
  const uint32_t other = slots.begin_fill_near(12);
  EXPECT_NE(other, 12u);
  EXPECT_EQ(slots.begin_fill_near(UINT32_MAX) - 10 < 4, true);
  EXPECT_EQ(slots.state(12), SlotState::kFilling);
  slots.abandon_fill(12);
  EXPECT_EQ(slots.begin_fill_near(12), 12u);
  EXPECT_EQ(slots.n_free(), 1u);
  EXPECT_DEATH((void)slots.state(9), "slot 9 of 4 from 10 on");
}

TEST(SlotStates, EverySlotIsHandedOutOnce) {
  SlotStates slots(5);
  std::set<uint32_t> seen;
  while (slots.n_free() > 0) EXPECT_TRUE(seen.insert(slots.begin_fill()).second);
  EXPECT_EQ(seen.size(), 5u);
}

}  // namespace
}  // namespace strata::tiers
