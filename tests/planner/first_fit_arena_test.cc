#include "planner/virtual/first_fit_arena.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace strata::planner {
namespace {

constexpr uint64_t kGranule = FirstFitArena::kGranule;
constexpr uint64_t kBase = uint64_t{1} << 40;

TEST(FirstFitArena, HoldsItsCapacityToTheByte) {
  FirstFitArena arena(kBase, 10 * kGranule + 5);
  EXPECT_EQ(arena.capacity_bytes(), 10 * kGranule);
  EXPECT_FALSE(arena.take(10 * kGranule + 1, 1));
  ASSERT_TRUE(arena.take(10 * kGranule, 1));
  EXPECT_FALSE(arena.take(1, 2));
}

TEST(FirstFitArena, AByteTakesAGranule) {
  FirstFitArena arena(kBase, 2 * kGranule);
  EXPECT_EQ(arena.take(1, 1), kBase);
  EXPECT_EQ(arena.take(1, 2), kBase + kGranule);
  EXPECT_FALSE(arena.take(1, 3));
  EXPECT_EQ(arena.used_bytes(), 2 * kGranule);
}

TEST(FirstFitArena, FragmentsRefuseWhatTheirSumWouldHold) {
  FirstFitArena arena(kBase, 4 * kGranule);
  std::vector<uint64_t> places;
  for (uint64_t i = 0; i < 4; ++i) places.push_back(*arena.take(kGranule, i + 1));
  arena.give(places[0]);
  arena.give(places[2]);
  EXPECT_EQ(arena.largest_free_bytes(), kGranule);
  EXPECT_FALSE(arena.take(2 * kGranule, 5));
  arena.give(places[1]);  // the three are one run again
  EXPECT_EQ(arena.largest_free_bytes(), 3 * kGranule);
  EXPECT_EQ(arena.take(2 * kGranule, 6), kBase);
  EXPECT_EQ(arena.peak_bytes(), 4 * kGranule);
}

TEST(FirstFitArena, TakesTheLowestRunThatHoldsIt) {
  FirstFitArena arena(kBase, 10 * kGranule);
  const uint64_t a = *arena.take(kGranule, 1);
  arena.take(kGranule, 2);
  const uint64_t c = *arena.take(3 * kGranule, 3);
  arena.take(kGranule, 4);
  arena.give(a);
  arena.give(c);
  EXPECT_EQ(arena.take(2 * kGranule, 5), c);
  EXPECT_EQ(arena.take(kGranule, 6), a);
}

TEST(FirstFitArena, FindsThePlaceOfAnAddressAndItsNumber) {
  FirstFitArena arena(kBase, 4 * kGranule);
  const uint64_t begin = *arena.take(kGranule + 1, 7);
  ASSERT_NE(arena.find(begin + 2 * kGranule - 1), nullptr);
  EXPECT_EQ(arena.find(begin)->bytes, kGranule + 1);
  EXPECT_EQ(arena.find(begin)->number, 7u);
  EXPECT_EQ(arena.find(begin + 2 * kGranule), nullptr);
  EXPECT_FALSE(arena.give(begin + 1));
  EXPECT_TRUE(arena.give(begin));
  EXPECT_EQ(arena.find(begin), nullptr);
}

TEST(FirstFitArena, RandomPlacesNeverOverlapAndAllComesBack) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  FirstFitArena arena(kBase, 64 * kGranule);
  std::map<uint64_t, uint64_t> live;  // begin -> granules
  for (int i = 0; i < 20000; ++i) {
    if (random() % 2 == 0) {
      const uint64_t bytes = 1 + random() % (9 * kGranule);
      const auto begin = arena.take(bytes, 1);
      const uint64_t needed = (bytes + kGranule - 1) / kGranule * kGranule;
      if (!begin) {
        EXPECT_LT(arena.largest_free_bytes(), needed);
        continue;
      }
      const auto after = live.lower_bound(*begin);
      EXPECT_TRUE(after == live.end() || after->first >= *begin + needed);
      EXPECT_TRUE(after == live.begin() ||
                  std::prev(after)->first + std::prev(after)->second <= *begin);
      EXPECT_LE(*begin + needed, kBase + arena.capacity_bytes());
      live.emplace(*begin, needed);
    } else if (!live.empty()) {
      const auto victim = std::next(live.begin(), static_cast<int64_t>(random() % live.size()));
      EXPECT_TRUE(arena.give(victim->first));
      live.erase(victim);
    }
  }
  for (const auto& [begin, bytes] : live) arena.give(begin);
  EXPECT_EQ(arena.used_bytes(), 0u);
  EXPECT_EQ(arena.largest_free_bytes(), arena.capacity_bytes());
}

}  // namespace
}  // namespace strata::planner
