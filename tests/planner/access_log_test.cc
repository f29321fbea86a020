#include "planner/virtual/access_log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace strata::planner {
namespace {

/// Lines with clocks, as streams and events move them.
class Lines {
 public:
  Access next(uint32_t line, const char* name = "op") {
    clocks_.resize(std::max<size_t>(clocks_.size(), line + 1));
    advance(clocks_[line], line);
    return {line, known(clocks_[line], line), name, ++n_};
  }
  const VectorClock& clock(uint32_t line) const { return clocks_[line]; }
  /// What the second line does from now on is behind what the first has done.
  void order(uint32_t before, uint32_t after) {
    clocks_.resize(std::max<size_t>(clocks_.size(), std::max(before, after) + 1));
    join(clocks_[after], VectorClock(clocks_[before]));
  }

 private:
  std::vector<VectorClock> clocks_;
  uint64_t n_ = 0;
};

TEST(AccessLog, TwoWritesOfTwoLinesConflictUnlessOrdered) {
  for (const bool is_ordered : {false, true}) {
    AccessLog log;
    Lines lines;
    const Access first = lines.next(1, "first");
    EXPECT_FALSE(log.write({100, 50}, first, lines.clock(1)));
    if (is_ordered) lines.order(1, 2);
    const Access second = lines.next(2, "second");
    const auto conflict = log.write({120, 100}, second, lines.clock(2));
    EXPECT_EQ(conflict.has_value(), !is_ordered);
    if (!conflict) continue;
    EXPECT_EQ(conflict->earlier, first);
    EXPECT_TRUE(conflict->earlier_wrote);
    EXPECT_EQ(conflict->range.begin, 120u);
    EXPECT_EQ(conflict->range.bytes, 30u);
  }
}

TEST(AccessLog, ReadsDoNotConflictButEachHoldsBackAWrite) {
  AccessLog log;
  Lines lines;
  for (const uint32_t line : {1u, 2u, 3u}) {
    const Access read = lines.next(line, "read");
    EXPECT_FALSE(log.read({0, 10}, read, lines.clock(line)));
  }
  lines.order(1, 4);
  lines.order(3, 4);
  const Access write = lines.next(4, "write");
  const auto conflict = log.write({9, 1}, write, lines.clock(4));
  ASSERT_TRUE(conflict);
  EXPECT_EQ(conflict->earlier.line, 2u);
  EXPECT_FALSE(conflict->earlier_wrote);
}

TEST(AccessLog, NeighboursDoNotConflict) {
  AccessLog log;
  Lines lines;
  const Access first = lines.next(1);
  EXPECT_FALSE(log.write({10, 10}, first, lines.clock(1)));
  const Access second = lines.next(2);
  EXPECT_FALSE(log.write({0, 10}, second, lines.clock(2)));
  EXPECT_FALSE(log.write({20, 1}, second, lines.clock(2)));
  EXPECT_FALSE(log.write({15, 0}, second, lines.clock(2)));
}

TEST(AccessLog, ForgottenBytesAreOthers) {
  AccessLog log;
  Lines lines;
  const Access first = lines.next(1);
  EXPECT_FALSE(log.write({0, 100}, first, lines.clock(1)));
  log.forget({10, 80});
  const Access second = lines.next(2);
  EXPECT_FALSE(log.write({10, 80}, second, lines.clock(2)));
  EXPECT_TRUE(log.read({9, 1}, second, lines.clock(2)));
  EXPECT_TRUE(log.read({90, 1}, second, lines.clock(2)));
}

TEST(AccessLog, LastWriteIsTheLatestOfTheRange) {
  AccessLog log;
  Lines lines;
  const Access first = lines.next(1);
  log.write({0, 10}, first, lines.clock(1));
  const Access second = lines.next(1);
  log.write({5, 10}, second, lines.clock(1));
  EXPECT_EQ(log.last_write({0, 5}), first.number);
  EXPECT_EQ(log.last_write({0, 6}), second.number);
  EXPECT_EQ(log.last_write({15, 5}), 0u);
}

TEST(AccessLog, NeighboursOfOneStateBecomeOneSegment) {
  AccessLog log;
  Lines lines;
  const Access fill = lines.next(1);
  log.write({0, 1000}, fill, lines.clock(1));
  const Access read = lines.next(1);
  for (uint64_t i = 0; i < 1000; i += 10) log.read({i, 10}, read, lines.clock(1));
  EXPECT_EQ(log.n_segments(), 1u);
}

/// Conflicts as their definition says: every pair of accesses of every byte.
struct Remembered {
  Access by;
  bool writes;
  ByteRange range;
};

TEST(AccessLog, FindsAConflictWhereverOneByteHasAPair) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  uint64_t n_conflicts = 0;
  for (int run = 0; run < 300; ++run) {
    AccessLog log;
    Lines lines;
    std::vector<Remembered> all;
    for (int i = 0; i < 40; ++i) {
      const auto line = static_cast<uint32_t>(1 + random() % 3);
      if (random() % 3 == 0) lines.order(static_cast<uint32_t>(1 + random() % 3), line);
      const Remembered now{lines.next(line), random() % 3 == 0, {random() % 30, 1 + random() % 8}};
      const VectorClock& clock = lines.clock(line);
      const bool is_wanted = std::ranges::any_of(all, [&](const Remembered& then) {
        const bool overlaps =
            then.range.begin < now.range.end() && now.range.begin < then.range.end();
        return overlaps && (then.writes || now.writes) &&
               then.by.epoch > known(clock, then.by.line);
      });
      const auto found =
          now.writes ? log.write(now.range, now.by, clock) : log.read(now.range, now.by, clock);
      ASSERT_EQ(found.has_value(), is_wanted) << "run " << run << " access " << i;
      all.push_back(now);
      if (!is_wanted) continue;
      ++n_conflicts;
      break;  // what follows a conflict is not promised
    }
  }
  EXPECT_GT(n_conflicts, 100u);
}

}  // namespace
}  // namespace strata::planner
