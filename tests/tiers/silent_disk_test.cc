// A disk that says nothing any more: what it should bring is lost extent by extent, but not for
// ever.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "tests/tiers/block_fixture.h"
#include "tiers/simulated_io.h"

namespace strata::tiers {
namespace {

enum class Read { kCame, kWasLost, kEndedThis };

/// Extents on a disk, none of them in DRAM.
struct EvictedRuns {
  explicit EvictedRuns(uint32_t n)
      : at({.disk = {.stall = std::chrono::hours(1)}, .n_slots = 128, .n_frames = 16}) {
    for (uint32_t i = 0; i < n; ++i) runs.push_back(at.store_run(100 * i));
    at.evict_all();
  }

  template <class Use>
  Read result_of(const Use& use) {
    try {
      use();
      return Read::kCame;
    } catch (const LostExtent&) {
      return Read::kWasLost;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kIo);
      EXPECT_NE(std::string(error.what()).find("does not answer"), std::string::npos);
      EXPECT_NE(error.remedy().find("--nvme"), std::string::npos);
      return Read::kEndedThis;
    }
  }
  Read take(uint32_t i, bool hangs) {
    const ExtentId extent = at.store.extent_of(runs[i][0]);
    if (hangs) at.spill.disk->fail_nth(at.spill.disk->n_submitted(), FaultKind::kStall);
    EXPECT_TRUE(at.store.fetch(extent));
    const Read read = result_of([&] { at.store.take({&extent, 1}, at.serial_pool); });
    at.store.release(extent);
    return read;
  }

  testing::BlockFixture at;
  std::vector<testing::BlockFixture::Run> runs;
};

TEST(SilentDisk, IsGivenUpBehindThreeDeadlines) {
  EvictedRuns of(4);
  EXPECT_EQ(of.take(0, true), Read::kWasLost);
  EXPECT_EQ(of.take(1, true), Read::kWasLost);
  EXPECT_EQ(of.take(2, true), Read::kEndedThis);
  EXPECT_LT(of.at.spill.disk->now(), std::chrono::seconds(31));
  EXPECT_EQ(of.at.store.counts().lost_extents, 2u) << "the third may still come";
}

TEST(SilentDisk, AnAnswerBetweenThemBeginsAnew) {
  EvictedRuns of(6);
  EXPECT_EQ(of.take(0, true), Read::kWasLost);
  EXPECT_EQ(of.take(1, true), Read::kWasLost);
  EXPECT_EQ(of.take(2, false), Read::kCame);
  EXPECT_EQ(of.take(3, true), Read::kWasLost);
  EXPECT_EQ(of.take(4, true), Read::kWasLost);
  EXPECT_EQ(of.take(5, true), Read::kEndedThis);
}

TEST(SilentDisk, ReadsBesideOneAnotherAreOneSilence) {
  EvictedRuns of(5);
  std::vector<ExtentId> extents;
  for (uint32_t i = 0; i < 4; ++i) {
    of.at.spill.disk->fail_nth(of.at.spill.disk->n_submitted(), FaultKind::kStall);
    extents.push_back(of.at.store.extent_of(of.runs[i][0]));
    ASSERT_TRUE(of.at.store.fetch(extents.back()));
    of.at.store.poll();
  }
  for (const ExtentId& extent : extents)
    EXPECT_EQ(of.result_of([&] {
      of.at.store.take({&extent, 1}, of.at.serial_pool);
    }),
              Read::kWasLost);
  EXPECT_EQ(of.at.store.transfers()->n_silences(), 1u);
}

}  // namespace
}  // namespace strata::tiers
