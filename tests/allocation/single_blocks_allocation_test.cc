// No allocation per step: reading single blocks uses what was reserved before.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "tests/allocation/counted_allocations.h"
#include "tests/tiers/fresh_folder.h"
#include "tiers/block_store.h"

namespace strata::tiers {
namespace {

constexpr uint32_t kExtents = 8;
constexpr uint32_t kHeads = 4;
constexpr uint32_t kSlots = 128;  // half of all blocks
constexpr uint32_t kPinned = 24;  // more than there are frames

/// Extents in the file alone.
std::vector<BlockId> store_away(BlockStore& store, uint32_t block_bytes) {
  std::vector<BlockId> all;
  const std::array<Hash128, kExtentBlocks> chain{};
  for (uint32_t extent = 0; extent < kExtents; ++extent) {
    EXPECT_TRUE(store.make_room(kHeads * kExtentBlocks));
    std::vector<BlockId> blocks;
    for (uint32_t i = 0; i < kHeads * kExtentBlocks; ++i) {
      blocks.push_back(*store.open_block(kNoBlock));
      std::memset(store.open_bytes(blocks.back()), static_cast<int>(all.size() + i), block_bytes);
    }
    EXPECT_TRUE(store.freeze(0, extent * kExtentPositions, chain, blocks));
    all.insert(all.end(), blocks.begin(), blocks.end());
  }
  EXPECT_TRUE(store.make_room(kSlots));
  return all;
}

TEST(SingleBlocksAllocation, StepsThatPinBlocksAllocateNothing) {
  for (const IoChoice io : {IoChoice::kThreads, IoChoice::kAuto})
    for (const KvCodec codec : {KvCodec::kF16, KvCodec::kQ8_0}) {
      const FreshFolder folder;
      const KvLayout layout = KvLayout::make(codec, codec, 64);
      const uint64_t place = uint64_t{kHeads} * kExtentBlocks * layout.block_bytes;
      std::vector<std::string> notices;
      BlockStore store(layout, 1, uint64_t{kSlots} * layout.block_bytes, Hash128{1, 2},
                       open_spill({.directory = folder.path(),
                                   .budget_bytes = kExtents * place,
                                   .place_bytes = place,
                                   .n_frames = 4,
                                   .block_bytes = layout.block_bytes,
                                   .n_block_frames = 16,
                                   .io = io},
                                  notices));
      ThreadPool pool(2);
      const std::vector<BlockId> all = store_away(store, layout.block_bytes);
      std::mt19937_64 random(1);
      std::array<BlockId, kPinned> wanted;
      const auto step = [&] {
        store.begin_step(ReadGrain::kBlocks);
        for (BlockId& block : wanted) block = all[random() % all.size()];
        store.begin_blocks(std::span(wanted).first(random() % kPinned));
        store.pin(wanted, pool);
        store.unpin(wanted);
      };
      for (uint32_t i = 0; i < 20; ++i) step();
      const uint64_t n_read = store.counts().blocks_read;
      const uint64_t before = strata::testing::n_allocations();
      for (uint32_t i = 0; i < 200; ++i) step();
      EXPECT_EQ(strata::testing::n_allocations() - before, 0u);
      EXPECT_GT(store.counts().blocks_read, n_read + 200);
      EXPECT_GT(store.counts().blocks_evicted, 200u);
    }
}

}  // namespace
}  // namespace strata::tiers
