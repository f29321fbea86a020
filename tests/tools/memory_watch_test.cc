// When a run says that memory runs short.
#include "tools/cli/memory_watch.h"

#include <gtest/gtest.h>

#include <string>

#include "engine/dram_budget.h"
#include "tools/cli/value_readers.h"

namespace strata::cli {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

TEST(MemoryWatch, SaysOnceThatLessIsFreeThanIsStillToBeTaken) {
  MemoryWatch watch(1000 * kMiB);
  EXPECT_EQ(watch.look({.held_bytes = 300 * kMiB, .available_bytes = 700 * kMiB}), "");
  const MemoryNow lacking{.held_bytes = 300 * kMiB, .available_bytes = 600 * kMiB};
  const std::string said = watch.look(lacking);
  for (const char* words : {"700.0 MiB", "600.0 MiB are free", "--dram 855MiB"})
    EXPECT_NE(said.find(words), std::string::npos) << said;
  EXPECT_EQ(watch.look(lacking), "");
  // It came back, and went again.
  EXPECT_EQ(watch.look({.held_bytes = 300 * kMiB, .available_bytes = 800 * kMiB}), "");
  EXPECT_NE(watch.look(lacking), "");
}

TEST(MemoryWatch, APlanOfTheMemoryThatItProposesIsNotShort) {
  constexpr uint64_t kThere = 1130 * kMiB;  // in tenths of GiB, rounded up, more than is there
  const MemoryNow lacking{.held_bytes = 130 * kMiB, .available_bytes = 1000 * kMiB};
  const std::string said = MemoryWatch(4000 * kMiB).look(lacking);
  const size_t at = said.rfind("--dram ");
  ASSERT_NE(at, std::string::npos) << said;
  const auto proposed = read_size(said.substr(at + 7));
  ASSERT_TRUE(proposed) << said;
  EXPECT_LE(*proposed, kThere / 100 * 95);
  EXPECT_GT(*proposed, kThere / 100 * 94);
  EXPECT_EQ(MemoryWatch(*proposed).look({.available_bytes = kThere}), "");
}

TEST(MemoryWatch, WhatMovesByItselfIsNotSaid) {
  MemoryWatch small(1000 * kMiB);
  EXPECT_EQ(small.look({.available_bytes = 1000 * kMiB - engine::kProcessBytes}), "");
  const MemoryNow lacking{.available_bytes = 999 * kMiB - engine::kProcessBytes};
  EXPECT_NE(small.look(lacking), "");
  // Just within the slack it is not there again.
  EXPECT_EQ(small.look({.available_bytes = 999 * kMiB}), "");
  EXPECT_EQ(small.look(lacking), "");
  EXPECT_EQ(small.look({.available_bytes = 1000 * kMiB}), "");
  EXPECT_NE(small.look(lacking), "");
  // Of a large plan a share.
  MemoryWatch large(100'000 * kMiB);
  EXPECT_EQ(large.look({.available_bytes = 98'100 * kMiB}), "");
  EXPECT_NE(large.look({.available_bytes = 97'900 * kMiB}), "");
}

TEST(MemoryWatch, WhoHasAllThatWasPlannedLacksNothing) {
  MemoryWatch watch(1000 * kMiB);
  EXPECT_EQ(watch.look({.held_bytes = 1100 * kMiB, .available_bytes = 0}), "");
}

TEST(MemoryWatch, SaysThatTheMachineWaitsForMemory) {
  MemoryWatch watch(1000 * kMiB);
  MemoryNow now{.held_bytes = 1000 * kMiB, .available_bytes = 10 * kMiB, .pressure = 0.05};
  EXPECT_EQ(watch.look(now), "");
  now.pressure = 0.34;
  const std::string said = watch.look(now);
  EXPECT_NE(said.find("34 % of the time"), std::string::npos) << said;
  EXPECT_EQ(said.find("--dram"), std::string::npos) << said;
  // It waits less, but not so much less that more would be news.
  for (const double pressure : {0.08, 0.34}) {
    now.pressure = pressure;
    EXPECT_EQ(watch.look(now), "") << pressure;
  }
  now.pressure = 0.01;
  EXPECT_EQ(watch.look(now), "");
  now.pressure = 0.34;
  EXPECT_NE(watch.look(now), "");
}

TEST(MemoryWatch, ThisProcessHoldsMemory) {
  EXPECT_GT(memory_now().held_bytes, 0u);
  EXPECT_GT(memory_now().available_bytes, 0u);
}

}  // namespace
}  // namespace strata::cli
