// Single blocks of evicted extents: what comes back, what leaves, what is pinned.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tests/tiers/block_fixture.h"

namespace strata::tiers {
namespace {

using testing::BlockFixture;
using testing::StoreSetting;

constexpr StoreSetting kSetting{.n_block_frames = 8};

/// Extents that lie in the file alone, in a step that reads single blocks.
std::vector<BlockFixture::Run> store_away(BlockFixture& at, uint32_t n) {
  std::vector<BlockFixture::Run> runs;
  for (uint64_t i = 0; i < n; ++i) runs.push_back(at.store_run(100 * (i + 1)));
  at.store.begin_step();
  at.store.begin_step();
  at.evict_all();
  at.store.begin_step(ReadGrain::kBlocks);
  return runs;
}

TEST(SingleBlocks, APinnedBlockIsReadAloneAndIsTheRightOne) {
  struct Case {
    KvCodec codec;
    uint32_t head_dim, block_bytes;
  };
  for (const Case& of : {Case{KvCodec::kF16, 64, 8192}, Case{KvCodec::kQ8_0, 64, 4352},
                         Case{KvCodec::kF16, 128, 16384}, Case{KvCodec::kF16, 8, 1024}})
    for (const uint32_t alignment : {512u, 4096u}) {
      SCOPED_TRACE(std::to_string(of.block_bytes) + " at " + std::to_string(alignment));
      StoreSetting setting = kSetting;
      setting.codec = of.codec;
      setting.head_dim = of.head_dim;
      setting.disk.alignment = setting.block_disk.alignment = alignment;
      BlockFixture at(setting);
      ASSERT_EQ(at.layout.block_bytes, of.block_bytes);
      const auto runs = store_away(at, 2);
      const std::array<BlockId, 3> wanted = {runs[1][7], runs[0][3], runs[1][0]};
      ASSERT_TRUE(at.pin(wanted));
      EXPECT_TRUE(at.holds(wanted[0], 207));
      EXPECT_TRUE(at.holds(wanted[1], 103));
      EXPECT_TRUE(at.holds(wanted[2], 200));
      EXPECT_FALSE(at.store.is_resident(runs[0][2]));
      EXPECT_TRUE(at.store.has_away());
      EXPECT_EQ(at.store.counts().extents_read, 0u);
      EXPECT_EQ(at.store.counts().blocks_read, 3u);
      const TransferCounts counts = at.store.transfer_counts();
      EXPECT_EQ(counts.reads, 3u);
      EXPECT_LE(counts.read_bytes, 3 * (round_up(of.block_bytes, alignment) + alignment));
      if (of.block_bytes % alignment == 0) {
        EXPECT_EQ(counts.read_bytes, 3 * of.block_bytes);
      }
      at.store.unpin(wanted);
      EXPECT_TRUE(at.all_frames_are_free());
      EXPECT_TRUE(at.store.is_resident(wanted[0]));  // until its slot is needed
    }
}

}  // namespace
}  // namespace strata::tiers
