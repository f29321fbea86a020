// Which extents leave DRAM first where something else holds a copy of them.
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "tests/tiers/block_fixture.h"

namespace strata::tiers {
namespace {

using testing::BlockFixture;

/// Two layers of three extents each, none of the last step.
struct FirstVictimsStore : BlockFixture {
  FirstVictimsStore() : BlockFixture({}) {
    const std::array<uint64_t, 8> serials = {1, 2, 3, 4, 5, 6, 7, 8};
    for (const uint32_t layer : {0u, 1u})
      for (uint32_t i = 0; i < 3; ++i) {
        store.begin_step();
        Run run;
        EXPECT_TRUE(open(serials, run));
        freeze(layer, i * kExtentPositions, 1, run);
        runs.push_back(run);
      }
    settle();
    store.begin_step();
    store.begin_step();
  }
  /// One more extent leaves DRAM; all that have.
  std::vector<size_t> next_gone() {
    (void)store.make_room(store.pool().n_free() + 1);
    std::vector<size_t> gone;
    for (size_t i = 0; i < runs.size(); ++i)
      if (!store.is_resident(runs[i][0])) gone.push_back(i);
    return gone;
  }
  std::vector<Run> runs;  // of layer 0, then of layer 1
};

/// Of two layers with as many extents those that begin before a position go first, the latest of
/// them before the others; then the rule is that of every store.
TEST(FirstVictims, WhatIsElsewhereAtHandLeavesFirst) {
  FirstVictimsStore at;
  at.store.set_first_victims({0, 2 * kExtentPositions});
  EXPECT_EQ(at.next_gone(), (std::vector<size_t>{4}));
  EXPECT_EQ(at.next_gone(), (std::vector<size_t>{3, 4}));
  EXPECT_EQ(at.next_gone(),
            (std::vector<size_t>{1, 3, 4}));  // the last but one of the fullest layer
}

/// The layer that has most of them goes first.
TEST(FirstVictims, LayersKeepAsManyEach) {
  FirstVictimsStore at;
  at.store.set_first_victims({2 * kExtentPositions, kExtentPositions});
  EXPECT_EQ(at.next_gone(), (std::vector<size_t>{1}));
  EXPECT_EQ(at.next_gone(), (std::vector<size_t>{0, 1}));
  EXPECT_EQ(at.next_gone(), (std::vector<size_t>{0, 1, 3}));
}

}  // namespace
}  // namespace strata::tiers
