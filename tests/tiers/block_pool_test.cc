#include "tiers/block_pool.h"

#include <gtest/gtest.h>

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
    if (random() % 5 < 3) {
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
