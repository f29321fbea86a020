#include "tiers/block_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "base/error.h"

namespace strata::tiers {
namespace {

uint32_t number(SlotId slot) { return static_cast<uint32_t>(slot); }

TEST(BlockPool, AStreamFillsARunOfNeighbours) {
  BlockPool pool(64 * 1024, 1024);
  auto a = *pool.take(kNoSlot);
  auto b = *pool.take(kNoSlot);
  for (uint32_t i = 1; i < BlockPool::kRunSlots; ++i) {
    const auto next_a = *pool.take(a);
    const auto next_b = *pool.take(b);
    EXPECT_EQ(number(next_a), number(a) + 1);
    EXPECT_EQ(number(next_b), number(b) + 1);
    a = next_a;
    b = next_b;
  }
  EXPECT_EQ(number(*pool.take(a)) % BlockPool::kRunSlots, 0u);
}

TEST(BlockPool, EverySlotIsHandedOutOnceAndThenNone) {
  BlockPool pool(100 * 64 + 63, 64);
  EXPECT_EQ(pool.n_slots(), 100u);
  std::map<uint32_t, int> seen;
  SlotId previous = kNoSlot;
  for (int i = 0; i < 100; ++i) {
    const auto slot = pool.take(i % 3 == 0 ? kNoSlot : previous);
    ASSERT_TRUE(slot);
    ++seen[number(*slot)];
    previous = *slot;
  }
  EXPECT_EQ(seen.size(), 100u);
  EXPECT_FALSE(pool.take(previous));
  pool.release(static_cast<SlotId>(57));
  EXPECT_EQ(number(*pool.take(kNoSlot)), 57u);
  EXPECT_EQ(pool.peak_used(), 100u);
}

TEST(BlockPool, RandomTakesAndReleasesKeepTheBooks) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  BlockPool pool(333 * 128, 128);
  std::set<uint32_t> held;
  for (int i = 0; i < 50000; ++i) {
    if (random() % 16 == 0) {
      const auto n_runs = static_cast<uint32_t>(1 + random() % 4);
      uint32_t n_longest = 0;
      for (uint32_t slot = 0, n = 0; slot < 333; ++slot) {
        n = slot % BlockPool::kRunSlots == 0 && n % BlockPool::kRunSlots != 0 ? 0 : n;
        n = held.contains(slot) ? 0 : n + (n > 0 || slot % BlockPool::kRunSlots == 0 ? 1 : 0);
        n_longest = std::max(n_longest, n);
      }
      const auto first = pool.take_runs(n_runs);
      ASSERT_EQ(first.has_value(), n_longest >= n_runs * BlockPool::kRunSlots);
      for (uint32_t k = 0; first && k < n_runs * BlockPool::kRunSlots; ++k) {
        ASSERT_TRUE(held.insert(number(*first) + k).second);
      }
    } else if (random() % 5 < 2) {
      auto near = held.lower_bound(static_cast<uint32_t>(random() % 333));
      const SlotId previous = near == held.end() ? kNoSlot : static_cast<SlotId>(*near);
      const auto slot = pool.take(previous);
      ASSERT_EQ(slot.has_value(), held.size() < 333);
      if (slot) {
        ASSERT_TRUE(held.insert(number(*slot)).second);
      }
    } else if (!held.empty()) {
      auto at = held.lower_bound(static_cast<uint32_t>(random() % 333));
      if (at == held.end()) at = held.begin();
      pool.release(static_cast<SlotId>(*at));
      held.erase(at);
    }
    ASSERT_EQ(pool.n_free(), 333 - held.size());
  }
}

TEST(BlockPool, RunsThatAreTakenTogetherLieSideBySideAndInTurn) {
  BlockPool pool(11 * 8 * 64 + 4 * 64, 64);  // eleven runs and half of one
  EXPECT_EQ(number(*pool.take_runs(2)), 0u);
  EXPECT_EQ(number(*pool.take_runs(3)), 16u);
  const SlotId single = *pool.take(kNoSlot);
  EXPECT_EQ(number(single), 40u) << "a run that is free";
  EXPECT_EQ(number(*pool.take_runs(2)), 48u);
  EXPECT_FALSE(pool.take_runs(4).has_value()) << "three runs and a half are left";
  EXPECT_EQ(number(*pool.take_runs(3)), 64u);
  EXPECT_EQ(pool.n_free(), 7u + 4u);
  for (uint32_t slot = 16; slot < 32; ++slot) pool.release(static_cast<SlotId>(slot));
  EXPECT_EQ(number(*pool.take_runs(2)), 16u);
  EXPECT_EQ(pool.slot_at(pool.address(single)), single);
}

TEST(BlockPool, ABudgetBelowOneBlockIsRefused) {
  try {
    BlockPool pool(63, 64);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
  }
}

TEST(BlockPoolDeathTest, ReleasingAFreeSlotIsABug) {
  BlockPool pool(640, 64);
  EXPECT_DEATH(pool.release(static_cast<SlotId>(3)), "slot 3 is free");
}

}  // namespace
}  // namespace strata::tiers
