// Which extents leave DRAM first where something else holds a copy of them.
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "tests/tiers/block_fixture.h"

namespace strata::tiers {
namespace {

using testing::BlockFixture;

/// Of two layers with as many extents those that begin before a position go first, the latest of
/// them before the others; then the rule is that of every store.
TEST(FirstVictims, WhatIsElsewhereAtHandLeavesFirst) {
  BlockFixture at({});
  const std::array<uint64_t, 8> serials = {1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<BlockFixture::Run> runs;  // of layer 0, then of layer 1
  for (const uint32_t layer : {0u, 1u})
    for (uint32_t i = 0; i < 3; ++i) {
      at.store.begin_step();
      BlockFixture::Run run;
      ASSERT_TRUE(at.open(serials, run));
      at.freeze(layer, i * kExtentPositions, 1, run);
      runs.push_back(run);
    }
  at.settle();
  at.store.begin_step();
  at.store.begin_step();
  at.store.set_first_victims({0, 2 * kExtentPositions});
  const auto next_gone = [&] {
    (void)at.store.make_room(at.store.pool().n_free() + 1);
    std::vector<size_t> gone;
    for (size_t i = 0; i < runs.size(); ++i)
      if (!at.store.is_resident(runs[i][0])) gone.push_back(i);
    return gone;
  };
  EXPECT_EQ(next_gone(), (std::vector<size_t>{4}));
  EXPECT_EQ(next_gone(), (std::vector<size_t>{3, 4}));
  EXPECT_EQ(next_gone(), (std::vector<size_t>{1, 3, 4}));  // the last but one of the fullest layer
}

}  // namespace
}  // namespace strata::tiers
