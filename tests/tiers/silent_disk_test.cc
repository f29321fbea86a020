// A disk that says nothing any more: what it should bring is lost, and it is called silent behind
// the third deadline.
#include <gtest/gtest.h>

#include <vector>

#include "tests/tiers/block_fixture.h"
#include "tiers/simulated_io.h"

namespace strata::tiers {
namespace {

using std::chrono_literals::operator""s;

/// Extents on a disk, none of them in DRAM.
struct EvictedRuns {
  explicit EvictedRuns(uint32_t n) : at({.disk = {.stall = 35s}, .n_slots = 128, .n_frames = 16}) {
    for (uint32_t i = 0; i < n; ++i) runs.push_back(at.store_run(100 * i));
    at.evict_all();
  }
  ExtentId extent(uint32_t i) const { return at.store.extent_of(runs[i][0]); }
  void hang_next() { at.spill.disk->fail_nth(at.spill.disk->n_submitted(), FaultKind::kStall); }
  bool take_hung(uint32_t i) {
    hang_next();
    return at.take(extent(i));
  }

  testing::BlockFixture at;
  std::vector<testing::BlockFixture::Run> runs;
};

TEST(SilentDisk, IsOneThatLetsThreeDeadlinesPassAndALateAnswerEndsIt) {
  EvictedRuns of(3);
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_FALSE(of.at.store.is_disk_silent()) << i;
    EXPECT_FALSE(of.take_hung(i));
  }
  EXPECT_TRUE(of.at.store.is_disk_silent());
  EXPECT_LT(of.at.spill.disk->now(), 31s);
  of.at.spill.disk->advance(10s);  // what hung first is there behind 35 s
  EXPECT_FALSE(of.at.store.is_disk_silent());
}

TEST(SilentDisk, IsNotOneThatAnswersInBetween) {
  EvictedRuns of(5);
  EXPECT_FALSE(of.take_hung(0));
  EXPECT_FALSE(of.take_hung(1));
  EXPECT_TRUE(of.at.take(of.extent(2)));
  of.at.store.release(of.extent(2));
  EXPECT_FALSE(of.take_hung(3));
  EXPECT_FALSE(of.at.store.is_disk_silent());
}

TEST(SilentDisk, ReadsThatHangBesideOneAnotherAreOneSilence) {
  EvictedRuns of(4);
  for (uint32_t i = 0; i < 4; ++i) {
    of.hang_next();
    ASSERT_TRUE(of.at.store.fetch(of.extent(i)));
    of.at.store.poll();
  }
  for (uint32_t i = 0; i < 4; ++i) {
    EXPECT_FALSE(of.at.take(of.extent(i)));  // holds it twice
    of.at.store.release(of.extent(i));
  }
  EXPECT_EQ(of.at.store.transfers()->n_silences(), 1u);
}

}  // namespace
}  // namespace strata::tiers
