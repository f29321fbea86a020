// When a run says that memory runs short.
#include "tools/cli/memory_watch.h"

#include <gtest/gtest.h>

#include <string>

namespace strata::cli {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

TEST(MemoryWatch, SaysOnceThatLessIsFreeThanIsStillToBeTaken) {
  MemoryWatch watch(1000 * kMiB);
  EXPECT_EQ(watch.look({.held_bytes = 300 * kMiB, .available_bytes = 700 * kMiB}), "");
  const MemoryNow lacking{.held_bytes = 300 * kMiB, .available_bytes = 600 * kMiB};
  const std::string said = watch.look(lacking);
  for (const char* words : {"700.0 MiB", "600.0 MiB are free", "--dram 900"})
    EXPECT_NE(said.find(words), std::string::npos) << said;
  EXPECT_EQ(watch.look(lacking), "");
  // It came back, and went again.
  EXPECT_EQ(watch.look({.held_bytes = 300 * kMiB, .available_bytes = 800 * kMiB}), "");
  EXPECT_NE(watch.look(lacking), "");
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
  EXPECT_NE(watch.look(now).find("34 % of the time"), std::string::npos);
}

TEST(MemoryWatch, ThisProcessHoldsMemory) {
  EXPECT_GT(memory_now().held_bytes, 0u);
  EXPECT_GT(memory_now().available_bytes, 0u);
}

}  // namespace
}  // namespace strata::cli
