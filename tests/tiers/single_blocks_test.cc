// Single blocks of evicted extents: what comes back, what leaves, what is pinned.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
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

/// Reads of one size end in the order of their start.
TEST(SingleBlocks, AreReadInTheOrderInWhichTheyAreWanted) {
  Trace trace(64);
  BlockFixture at(kSetting);
  const auto runs = store_away(at, 3);
  at.spill.block_transfers->set_trace(&trace);
  at.spill.block_disk->advance(std::chrono::milliseconds(1));  // at 0 nothing is recorded
  const std::array<BlockId, 5> wanted = {runs[2][1], runs[0][5], runs[1][3], runs[0][0],
                                         runs[1][2]};
  ASSERT_TRUE(at.pin(wanted));
  std::vector<uint64_t> offsets;
  for (const TraceEvent& event : trace.events())
    if (event.kind == TraceKind::kRead) offsets.push_back(event.detail);
  ASSERT_EQ(offsets.size(), 5u);
  const auto place = [&](uint32_t run, uint32_t block) {
    return run * at.extent_bytes + uint64_t{block} * at.layout.block_bytes;
  };
  EXPECT_EQ(offsets[0] - offsets[3], place(2, 1));
  EXPECT_EQ(offsets[1] - offsets[3], place(0, 5));
  EXPECT_EQ(offsets[2] - offsets[3], place(1, 3));
  EXPECT_EQ(offsets[4] - offsets[3], place(1, 2));
  at.store.unpin(wanted);
  at.spill.block_transfers->set_trace(nullptr);
}

/// There are fewer frames than blocks, so that the last ones are not even asked for when the first
/// ones are there.
TEST(SingleBlocks, SomeAreThereWhileOthersAreOnTheirWay) {
  BlockFixture at(kSetting);
  const auto runs = store_away(at, 2);
  std::vector<BlockId> wanted(runs[0].begin(), runs[0].end());
  wanted.insert(wanted.end(), runs[1].begin(), runs[1].end());
  at.store.begin_pin(wanted);
  at.store.finish_pin(std::span(wanted).first(2), at.serial_pool);
  EXPECT_TRUE(at.holds(wanted[0], 100));
  EXPECT_TRUE(at.holds(wanted[1], 101));
  EXPECT_FALSE(at.store.is_resident(wanted.back()));
  at.store.finish_pin(std::span(wanted).last(10), at.serial_pool);
  at.store.finish_pin(wanted, at.serial_pool);
  for (uint32_t i = 0; i < kExtentBlocks; ++i) {
    EXPECT_TRUE(at.holds(runs[0][i], 100 + i));
    EXPECT_TRUE(at.holds(runs[1][i], 200 + i));
  }
  at.store.unpin(wanted);
  EXPECT_TRUE(at.all_frames_are_free());
}

/// What is on its way then is given up: its slots are free, and it can be pinned again.
TEST(SingleBlocks, AreLetGoOfBeforeAllAreThere) {
  BlockFixture at(kSetting);
  const auto runs = store_away(at, 2);
  std::vector<BlockId> wanted(runs[0].begin(), runs[0].end());
  wanted.insert(wanted.end(), runs[1].begin(), runs[1].end());
  for (uint32_t i = 0; i < 3; ++i) {
    at.evict_all();
    const uint64_t n_free = at.store.pool().n_free();
    at.store.begin_pin(wanted);
    at.store.finish_pin(std::span(wanted).first(2), at.serial_pool);
    at.store.unpin(wanted);
    uint64_t n_resident = 0;
    for (const BlockId block : wanted) n_resident += at.store.is_resident(block) ? 1u : 0u;
    EXPECT_GE(n_resident, 2u);
    EXPECT_LT(n_resident, wanted.size());
    EXPECT_EQ(at.store.pool().n_free() + n_resident, n_free);
    EXPECT_TRUE(at.store.is_resident(wanted[0]));
  }
  ASSERT_TRUE(at.pin(wanted));
  EXPECT_TRUE(at.holds(wanted.back(), 207));
  at.store.unpin(wanted);
  EXPECT_TRUE(at.all_frames_are_free());
}

TEST(SingleBlocks, WhatIsInDramIsNotReadAgain) {
  BlockFixture at(kSetting);
  const auto runs = store_away(at, 1);
  for (uint32_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(at.pin(runs[0]));
    ASSERT_TRUE(at.pin(std::span(runs[0]).first(4)));  // pins are counted
    at.store.unpin(runs[0]);
    at.store.unpin(std::span(runs[0]).first(4));
  }
  EXPECT_EQ(at.store.counts().blocks_read, 8u);
  EXPECT_EQ(at.store.counts().blocks_pinned, 36u);
  EXPECT_FALSE(at.store.has_away());
  const std::array<BlockId, 3> twice = {runs[0][1], runs[0][1], runs[0][2]};
  at.evict_all();
  ASSERT_TRUE(at.pin(twice));
  EXPECT_EQ(at.store.counts().blocks_read, 10u);
  at.store.unpin(twice);
}

/// A run of eight slots for each of them would touch eight times their memory.
TEST(SingleBlocks, FromAnywhereFillNeighbouringSlots) {
  BlockFixture at(kSetting);
  const auto runs = store_away(at, 4);
  const std::array<BlockId, 4> wanted = {runs[3][6], runs[1][2], runs[0][4], runs[2][0]};
  ASSERT_TRUE(at.pin(wanted));
  std::vector<SlotId> slots;
  for (const BlockId block : wanted) slots.push_back(at.store.slot_of(block));
  const auto [first, last] = std::ranges::minmax(slots);
  EXPECT_EQ(static_cast<uint32_t>(last) - static_cast<uint32_t>(first), 3u);
  at.store.unpin(wanted);
}

TEST(SingleBlocks, WhatWasUnusedForLongestLeavesFirst) {
  StoreSetting setting = kSetting;
  setting.n_slots = 16;
  BlockFixture at(setting);
  const auto runs = store_away(at, 4);
  const auto use = [&](size_t run, uint32_t first) {
    const auto blocks = std::span(runs[run]).subspan(first, 4);
    ASSERT_TRUE(at.pin(blocks));
    at.store.unpin(blocks);
  };
  for (const size_t run : {0u, 1u})
    for (const uint32_t first : {0u, 4u}) use(run, first);
  use(2, 0);  // all were used alike: the hand begins at the first slot
  for (const BlockId block : std::span(runs[0]).first(4)) EXPECT_FALSE(at.store.is_resident(block));
  use(0, 4);
  use(1, 0);
  use(3, 0);
  for (const BlockId block : std::span(runs[1]).last(4)) EXPECT_FALSE(at.store.is_resident(block));
  for (const BlockId block : {runs[0][4], runs[1][0], runs[2][0], runs[3][0], runs[3][3]})
    EXPECT_TRUE(at.store.is_resident(block));
  EXPECT_EQ(at.store.counts().blocks_evicted, 8u);
}

TEST(SingleBlocks, WhatIsElsewhereLeavesBeforeWhatWasUsed) {
  StoreSetting setting = kSetting;
  setting.n_slots = 16;
  BlockFixture at(setting);
  const auto runs = store_away(at, 3);
  const auto use = [&](std::span<const BlockId> blocks, bool is_elsewhere) {
    ASSERT_TRUE(at.pin(blocks));
    at.store.unpin(blocks, is_elsewhere);
  };
  use(runs[0], false);
  use(std::span(runs[1]).first(4), true);
  use(std::span(runs[1]).last(4), false);
  use(std::span(runs[2]).first(4), false);  // takes the slots of four
  for (uint32_t i = 0; i < kExtentBlocks; ++i) {
    EXPECT_TRUE(at.store.is_resident(runs[0][i])) << i;
    EXPECT_EQ(at.store.is_resident(runs[1][i]), i >= 4) << i;
  }
}

TEST(SingleBlocks, PinnedBlocksStayAndWhatDoesNotFitIsRefused) {
  StoreSetting setting = kSetting;
  setting.n_slots = 16;
  BlockFixture at(setting);
  const auto runs = store_away(at, 3);
  ASSERT_TRUE(at.pin(runs[0]));
  ASSERT_TRUE(at.pin(runs[1]));
  EXPECT_FALSE(at.store.make_room(1));
  try {
    at.store.pin(std::span(runs[2]).first(2), at.serial_pool);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
  }
  at.store.unpin(runs[0]);
  ASSERT_TRUE(at.pin(runs[2]));
  for (uint32_t i = 0; i < kExtentBlocks; ++i) {
    EXPECT_TRUE(at.holds(runs[1][i], 200 + i));
    EXPECT_TRUE(at.holds(runs[2][i], 300 + i));
    EXPECT_FALSE(at.store.is_resident(runs[0][i]));
  }
  at.store.unpin(runs[1]);
  at.store.unpin(runs[2]);
}

TEST(SingleBlocks, BegunReadsArePickedUp) {
  BlockFixture at(kSetting);
  const auto runs = store_away(at, 2);
  at.store.begin_blocks(runs[0]);
  at.store.begin_blocks(runs[0]);  // on their way already
  at.store.begin_blocks(runs[1]);  // no frame is left
  EXPECT_EQ(at.spill.block_disk->n_submitted(), 8u);
  EXPECT_FALSE(at.store.is_readable(runs[0][0]));
  ASSERT_TRUE(at.pin(runs[0]));
  EXPECT_EQ(at.spill.block_disk->n_submitted(), 8u);
  for (uint32_t i = 0; i < kExtentBlocks; ++i) EXPECT_TRUE(at.holds(runs[0][i], 100 + i));
  EXPECT_TRUE(at.all_frames_are_free());
  at.store.unpin(runs[0]);
}

TEST(SingleBlocks, BegunReadsMakeRoomForOthersAndCanBeDropped) {
  BlockFixture at(kSetting);
  const auto runs = store_away(at, 3);
  at.store.begin_blocks(runs[0]);
  ASSERT_TRUE(at.pin(runs[1]));
  EXPECT_TRUE(at.holds(runs[1][5], 205));
  at.store.unpin(runs[1]);
  at.store.begin_blocks(runs[2]);
  at.store.drop_begun();
  while (at.spill.block_transfers->wait_any()) continue;
  EXPECT_TRUE(at.all_frames_are_free());
}

TEST(SingleBlocks, AReadEndsWithItsBlock) {
  BlockFixture at(kSetting);
  const auto runs = store_away(at, 3);
  at.store.begin_blocks(runs[0]);
  at.release(runs[0]);
  at.store.begin_step();
  const auto fresh = at.store_run(900);
  at.store.begin_step(ReadGrain::kBlocks);
  while (at.spill.block_transfers->wait_any()) continue;
  EXPECT_TRUE(at.all_frames_are_free());
  at.store.begin_blocks(runs[1]);
  for (uint32_t i = 0; i < kExtentBlocks; ++i) {
    if (i % 2 == 0) at.store.replace(runs[1][i], fresh[i], true);
    if (i % 2 != 0) at.store.replace(fresh[i], runs[1][i], true);
  }
  while (at.spill.block_transfers->wait_any()) continue;
  EXPECT_TRUE(at.all_frames_are_free());
  ASSERT_TRUE(at.pin(runs[1]));
  ASSERT_TRUE(at.pin(fresh));
  for (uint32_t i = 0; i < kExtentBlocks; ++i) {
    EXPECT_TRUE(at.holds(runs[1][i], 900 + i));
    EXPECT_TRUE(at.holds(fresh[i], 200 + i));
  }
  at.store.unpin(runs[1]);
  at.store.unpin(fresh);
  while (at.spill.block_transfers->wait_any()) continue;
  EXPECT_TRUE(at.all_frames_are_free());
}

TEST(SingleBlocks, TheRestOfAnExtentSettlesBesideThem) {
  BlockFixture at(kSetting);
  const auto runs = store_away(at, 1);
  const std::array<BlockId, 2> some = {runs[0][6], runs[0][2]};
  ASSERT_TRUE(at.pin(some));
  const std::byte* before = at.store.bytes(runs[0][2]);
  at.store.unpin(some);
  at.store.begin_step();
  at.store.set_headroom(0);
  const ExtentId extent = at.store.extent_of(runs[0][0]);
  ASSERT_TRUE(at.take(extent));
  at.store.release(extent);
  EXPECT_EQ(at.store.counts().extents_settled, 1u);
  EXPECT_EQ(at.store.bytes(runs[0][2]), before);
  for (uint32_t i = 0; i < kExtentBlocks; ++i) EXPECT_TRUE(at.holds(runs[0][i], 100 + i));
  EXPECT_FALSE(at.store.has_away());
  EXPECT_EQ(at.store.pool().n_free(), at.setting.n_slots - kExtentBlocks);
}

TEST(SingleBlocks, AStepOfExtentsEvictsWhatIsPartlyThere) {
  BlockFixture at(kSetting);
  const auto runs = store_away(at, 2);
  const std::array<BlockId, 3> some = {runs[0][6], runs[0][2], runs[1][0]};
  ASSERT_TRUE(at.pin(some));
  at.store.unpin(some);
  at.store.begin_step();
  at.evict_all();
  EXPECT_EQ(at.store.pool().n_free(), at.setting.n_slots);
  EXPECT_EQ(at.store.counts().extents_evicted, 4u);
  at.store.begin_step(ReadGrain::kBlocks);
  ASSERT_TRUE(at.pin(some));
  EXPECT_TRUE(at.holds(runs[1][0], 200));
  at.store.unpin(some);
}

/// No victim depends on when a write ends: what was frozen last comes last, and is waited for.
TEST(SingleBlocks, WhatTheLastStepFrozeLeavesLast) {
  StoreSetting setting = kSetting;
  setting.n_slots = 24;
  BlockFixture at(setting);
  const auto runs = store_away(at, 2);
  const auto begin = at.spill.disk->now();
  at.spill.disk->fail_nth(at.spill.disk->n_submitted(), FaultKind::kStall);
  std::array<uint64_t, kExtentBlocks> serials{};
  BlockFixture::Run fresh;
  ASSERT_TRUE(at.open(serials, fresh));  // in the slots that the clock's hand comes to first
  at.freeze(0, 0, 7, fresh);
  for (const auto& run : runs) {
    ASSERT_TRUE(at.pin(run));
    at.store.unpin(run);
  }
  ASSERT_TRUE(at.store.make_room(16));
  EXPECT_LT(at.spill.disk->now() - begin, std::chrono::seconds(1));
  for (const BlockId block : fresh) EXPECT_TRUE(at.store.is_resident(block));
  ASSERT_TRUE(at.store.make_room(17));
  EXPECT_GT(at.spill.disk->now() - begin, std::chrono::seconds(1));
  EXPECT_EQ(std::ranges::count_if(fresh, [&](BlockId b) { return at.store.is_resident(b); }), 7);
}

/// Likewise in a step of extents: what was read since stands before it among the victims.
TEST(SingleBlocks, WhatIsReadAfterAFreezeLeavesBeforeIt) {
  BlockFixture at(kSetting);
  const auto runs = store_away(at, 1);
  const auto old = at.store_run(800);
  at.store.begin_step(ReadGrain::kBlocks);
  at.store.begin_step(ReadGrain::kBlocks);
  const auto begin = at.spill.disk->now();
  at.spill.disk->fail_nth(at.spill.disk->n_submitted(), FaultKind::kStall);
  std::array<uint64_t, kExtentBlocks> serials{};
  BlockFixture::Run fresh;
  ASSERT_TRUE(at.open(serials, fresh));
  at.freeze(0, 0, 7, fresh);
  ASSERT_TRUE(at.pin(runs[0]));
  at.store.unpin(runs[0]);
  at.store.begin_step();
  ASSERT_TRUE(at.store.make_room(at.store.pool().n_free() + 1));
  EXPECT_FALSE(at.store.is_resident(runs[0][0]));
  EXPECT_TRUE(at.store.is_resident(old[0]));
  EXPECT_TRUE(at.store.is_resident(fresh[0]));
  EXPECT_LT(at.spill.disk->now() - begin, std::chrono::seconds(1));
}

TEST(SingleBlocks, WhatCouldNotBeWrittenStays) {
  BlockFixture at(kSetting);
  at.spill.disk->fail_nth(0, FaultKind::kWriteError);
  const auto run = at.store_run(100);
  at.store.begin_step(ReadGrain::kBlocks);
  at.store.begin_step(ReadGrain::kBlocks);
  EXPECT_FALSE(at.store.make_room(at.setting.n_slots));
  for (uint32_t i = 0; i < kExtentBlocks; ++i) EXPECT_TRUE(at.holds(run[i], 100 + i));
}

TEST(SingleBlocks, AStopLeavesNothingPinned) {
  BlockFixture at(kSetting);
  const auto runs = store_away(at, 1);
  at.spill.block_disk->fail_nth(1, FaultKind::kStall);
  const std::atomic<bool> stopped = true;
  at.store.set_cancel(&stopped);
  try {
    at.store.pin(std::span(runs[0]).first(2), at.serial_pool);
    FAIL() << "was not stopped";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  }
  EXPECT_LT(at.spill.block_disk->now(), std::chrono::seconds(1));
  at.store.set_cancel(nullptr);
  while (at.spill.block_transfers->wait_any()) continue;
  EXPECT_TRUE(at.all_frames_are_free());
  at.evict_all();
  EXPECT_EQ(at.store.pool().n_free(), at.setting.n_slots);  // none is pinned, no slot is missing
  ASSERT_TRUE(at.pin(runs[0]));
  EXPECT_TRUE(at.holds(runs[0][1], 101));
  at.store.unpin(runs[0]);
  at.release(runs[0]);
}

/// Two disks whose reads and writes end at other times and in another order.
TEST(SingleBlocks, WhatIsInDramFollowsFromTheStepsAlone) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::vector<std::vector<SlotId>> seen(2);
  for (auto& slots : seen) {
    std::mt19937_64 random(seed);
    const bool is_other = &slots != &seen[0];
    StoreSetting setting = kSetting;
    setting.n_slots = 40;
    setting.n_frames = is_other ? 2 : 8;
    setting.disk.seed = setting.block_disk.seed = is_other;
    setting.disk.latency_spread = setting.block_disk.latency_spread =
        std::chrono::milliseconds(is_other ? 50 : 0);
    BlockFixture at(setting);
    std::vector<BlockFixture::Run> runs;
    for (uint32_t step = 0; step < 300; ++step) {
      at.store.begin_step(ReadGrain::kBlocks);
      if (step % 8 == 0) {
        std::array<uint64_t, kExtentBlocks> serials{};
        runs.emplace_back();
        ASSERT_TRUE(at.open(serials, runs.back()));
        at.freeze(0, 0, step, runs.back());
      }
      std::vector<BlockId> wanted;
      for (uint64_t n = random() % 16; n > 0; --n)
        wanted.push_back(runs[random() % runs.size()][random() % kExtentBlocks]);
      at.store.begin_blocks(std::span(wanted).first(wanted.size() / 2));
      ASSERT_TRUE(at.pin(wanted));
      at.store.unpin(wanted);
      for (const auto& run : runs)
        for (const BlockId block : run) slots.push_back(at.store.slot_of(block));
    }
    EXPECT_GT(at.store.counts().blocks_evicted, 0u);
  }
  EXPECT_TRUE(seen[0] == seen[1]);
}

TEST(SingleBlocksDeathTest, AWrongUseIsABug) {
  BlockFixture at(kSetting);
  const auto runs = store_away(at, 1);
  const std::span<const BlockId> one = std::span(runs[0]).first(1);
  EXPECT_DEATH(at.store.unpin(one), "is not pinned");
  ASSERT_TRUE(at.pin(one));
  EXPECT_DEATH(at.store.release(one[0]), "is pinned");
  EXPECT_DEATH(at.store.replace(runs[0][1], one[0], true), "is pinned");
  EXPECT_DEATH(at.store.begin_step(), "1 blocks are pinned");
  at.store.unpin(one);
  at.store.begin_step();
  EXPECT_DEATH(at.store.pin(one, at.serial_pool), "in a step that reads extents");
  BlockFixture without({});
  const auto away = store_away(without, 1);
  EXPECT_DEATH(without.store.pin(away[0], without.serial_pool), "without a way to read them");
}

}  // namespace
}  // namespace strata::tiers
