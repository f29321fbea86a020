#include "tiers/block_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>

#include "tests/tiers/block_fixture.h"

namespace strata::tiers {
namespace {

using testing::BlockFixture;
using testing::StoreSetting;

TEST(BlockStore, AnEvictedExtentIsReadBack) {
  BlockFixture at({});
  const auto run = at.store_run(100);
  EXPECT_EQ(at.store.counts().extents_written, 1u);
  at.evict_all();
  EXPECT_EQ(at.store.pool().n_free(), at.store.pool().n_slots());
  EXPECT_FALSE(at.store.is_resident(run[0]));
  EXPECT_FALSE(at.store.is_readable(run[0]));
  const ExtentId extent = at.store.extent_of(run[0]);
  ASSERT_TRUE(at.take(extent));
  for (uint32_t i = 0; i < kExtentBlocks; ++i) {
    EXPECT_TRUE(at.store.is_readable(run[i]));
    EXPECT_TRUE(at.holds(run[i], 100 + i));
  }
  at.store.release(extent);
  EXPECT_FALSE(at.store.is_readable(run[0]));
  EXPECT_EQ(at.store.transfers()->n_free(), at.setting.n_frames);
}

TEST(BlockStore, TheExtentsOfALayerFollowEachOtherInTheFile) {
  BlockFixture at({.n_layers = 2, .n_places = 8});
  const std::array<uint64_t, 8> serials = {1, 2, 3, 4, 5, 6, 7, 8};
  for (uint32_t pos = 0; pos < 2 * kExtentPositions; pos += kExtentPositions)
    for (const uint32_t layer : {0u, 1u}) {
      BlockFixture::Run run;
      ASSERT_TRUE(at.open(serials, run));
      at.freeze(layer, pos, 1, run);
    }
  EXPECT_EQ(at.spill.places->taken(),
            (std::set<uint64_t>{0, at.extent_bytes, 4 * at.extent_bytes, 5 * at.extent_bytes}));
}

TEST(BlockStore, HoldsAreCountedAndReadOnce) {
  BlockFixture at({});
  const auto run = at.store_run(100);
  at.evict_all();
  const ExtentId extent = at.store.extent_of(run[0]);
  ASSERT_TRUE(at.take(extent));
  ASSERT_TRUE(at.take(extent));
  EXPECT_EQ(at.store.counts().extents_read, 1u);
  at.store.release(extent);
  EXPECT_TRUE(at.holds(run[3], 103));
  at.store.release(extent);
  EXPECT_FALSE(at.store.is_readable(run[3]));
}

TEST(BlockStore, BlocksReleasedWhileTheyAreWrittenKeepTheirPlaceUntilTheEnd) {
  BlockFixture at({});
  const std::array<uint64_t, 8> serials = {1, 2, 3, 4, 5, 6, 7, 8};
  BlockFixture::Run run;
  ASSERT_TRUE(at.open(serials, run));
  at.freeze(0, 0, 1, run);
  at.release(run);
  EXPECT_EQ(at.spill.places->n_taken(), 1u);
  at.settle();
  EXPECT_EQ(at.spill.places->n_taken(), 0u);
  EXPECT_EQ(at.store.pool().n_free(), at.store.pool().n_slots());
}

TEST(BlockStore, BlocksReleasedWhileTheyAreHeldKeepTheirPlaceUntilTheHoldEnds) {
  BlockFixture at({});
  const auto run = at.store_run(1);
  at.evict_all();
  const ExtentId extent = at.store.extent_of(run[0]);
  ASSERT_TRUE(at.take(extent));
  at.release(run);
  EXPECT_EQ(at.spill.places->n_taken(), 1u);
  at.store.release(extent);
  EXPECT_EQ(at.spill.places->n_taken(), 0u);
}

TEST(BlockStore, AReadThatNobodyWantsAnyMoreFreesItsFrame) {
  BlockFixture at({});
  const auto run = at.store_run(1);
  at.evict_all();
  const ExtentId extent = at.store.extent_of(run[0]);
  ASSERT_TRUE(at.store.fetch(extent));
  at.store.release(extent);
  at.release(run);  // its place is free while the read is on its way
  at.settle();
  EXPECT_EQ(at.store.transfers()->n_free(), at.setting.n_frames);
  EXPECT_EQ(at.spill.places->n_taken(), 0u);
}

TEST(BlockStore, WithoutAPlaceBlocksStayInDram) {
  BlockFixture at({.n_slots = 24, .n_places = 1});
  const auto first = at.store_run(100);
  const auto second = at.store_run(200);
  EXPECT_EQ(at.store.counts().places_refused, 1u);
  EXPECT_TRUE(at.store.is_frozen(first[0]));
  EXPECT_FALSE(at.store.is_frozen(second[0]));
  EXPECT_TRUE(at.store.make_room(16));
  EXPECT_FALSE(at.store.make_room(17));
  EXPECT_TRUE(at.holds(second[7], 207));
  // The place is used again.
  at.release(first);
  EXPECT_EQ(at.spill.places->n_taken(), 0u);
  const auto third = at.store_run(300);
  EXPECT_TRUE(at.store.is_frozen(third[0]));
}

TEST(BlockStore, AFailedWriteLeavesBlocksInDramAndItsPlaceTaken) {
  BlockFixture at({});
  at.spill.disk->fail_nth(0, FaultKind::kWriteError);
  const auto first = at.store_run(100);
  EXPECT_EQ(at.store.counts().write_failures, 1u);
  EXPECT_EQ(at.store.last_failure(), IoStatus::kDeviceError);
  EXPECT_FALSE(at.store.is_frozen(first[0]));
  const auto second = at.store_run(200);
  EXPECT_TRUE(at.store.is_frozen(second[0]));
  EXPECT_TRUE(at.holds(first[5], 105));
  at.release(first);
  at.release(second);
  EXPECT_EQ(at.spill.places->n_taken(), 1u);
}

TEST(BlockStore, APlaceThatADiskHadNoRoomForIsUsedAgain) {
  BlockFixture at({.n_places = 1});
  at.spill.disk->fail_nth(0, FaultKind::kNoSpace);
  const auto first = at.store_run(100);
  EXPECT_EQ(at.store.last_failure(), IoStatus::kNoSpace);
  EXPECT_FALSE(at.store.is_frozen(first[0]));
  EXPECT_EQ(at.spill.places->n_taken(), 0u);
  const auto second = at.store_run(200);
  ASSERT_TRUE(at.store.is_frozen(second[0]));
  at.evict_all();
  ASSERT_TRUE(at.take(at.store.extent_of(second[0])));
  EXPECT_TRUE(at.holds(second[3], 203));
  EXPECT_TRUE(at.holds(first[3], 103));
}

TEST(BlockStore, ADiskThatStaysFullIsNotWrittenForEver) {
  BlockFixture at({.disk = {.faults = {.no_space = 1}}, .n_slots = 200});
  for (uint64_t i = 1; i <= 20; ++i) at.store_run(100 * i);
  EXPECT_EQ(at.spill.disk->n_submitted(), 16u);
  EXPECT_EQ(at.spill.places->n_taken(), 0u);
  EXPECT_FALSE(at.store.make_room(200));
}

TEST(BlockStore, AHungWriteKeepsItsPlaceAndItsBlocks) {
  BlockFixture at({.n_slots = 16});
  at.spill.disk->fail_nth(0, FaultKind::kHangThenMove);
  const auto run = at.store_run(100);
  EXPECT_EQ(at.store.last_failure(), IoStatus::kTimedOut);
  EXPECT_FALSE(at.store.make_room(9));
  EXPECT_TRUE(at.holds(run[0], 100));
  at.release(run);
  EXPECT_EQ(at.spill.places->n_taken(), 1u);  // the device may still write there
  EXPECT_EQ(at.store.transfers()->n_quarantined(), 1u);
}

TEST(BlockStore, WhenNoFrameComesBackTheSpillEndsAndSaysWhy) {
  BlockFixture at({.n_slots = 64, .n_frames = 1});
  at.spill.disk->fail_nth(0, FaultKind::kHang);
  at.store_run(100);
  const auto second = at.store_run(200);
  EXPECT_EQ(at.store.last_failure(), IoStatus::kTimedOut);
  EXPECT_FALSE(at.store.is_frozen(second[0]));
  EXPECT_EQ(at.spill.places->n_taken(), 1u);
}

TEST(BlockStore, AFreezeWhileReadersHoldEveryFrameIsRefusedOnce) {
  BlockFixture at({.n_frames = 1});
  const auto run = at.store_run(100);
  at.evict_all();
  ASSERT_TRUE(at.take(at.store.extent_of(run[0])));
  EXPECT_FALSE(at.store.is_frozen(at.store_run(200)[0]));
  EXPECT_EQ(at.store.counts().frames_refused, 1u);
  EXPECT_EQ(at.spill.places->n_taken(), 1u);
  at.store.release(at.store.extent_of(run[0]));
  EXPECT_TRUE(at.store.is_frozen(at.store_run(300)[0]));
}

/// All frames hold ended writes that nobody has collected: there is nothing left to wait for, so a
/// fetch that only said no would be the last word.
TEST(BlockStore, AFetchUsesTheFramesOfEndedWrites) {
  BlockFixture at({.n_slots = 64, .n_frames = 2});
  const auto run = at.store_run(100);
  at.evict_all();
  for (const uint64_t first : {200u, 300u}) {
    std::array<uint64_t, 8> serials;
    for (uint32_t i = 0; i < 8; ++i) serials[i] = first + i;
    BlockFixture::Run more;
    ASSERT_TRUE(at.open(serials, more));
    at.freeze(1, 0, first, more);
  }
  ASSERT_EQ(at.store.transfers()->n_free(), 0u);
  at.spill.disk->advance(std::chrono::seconds(1));
  ASSERT_TRUE(at.store.fetch(at.store.extent_of(run[0])));
}

TEST(BlockStore, AFetchWithoutAFrameWaitsForOne) {
  BlockFixture at({.n_slots = 64, .n_frames = 1});
  const auto first = at.store_run(100);
  const auto second = at.store_run(200);
  at.evict_all();
  ASSERT_TRUE(at.store.fetch(at.store.extent_of(first[0])));
  at.store.poll();
  at.store.release(at.store.extent_of(first[0]));  // on its way still
  ASSERT_FALSE(at.store.fetch(at.store.extent_of(second[0])));
  ASSERT_TRUE(at.store.wait_for_transfer());
  ASSERT_TRUE(at.take(at.store.extent_of(second[0])));
  EXPECT_TRUE(at.holds(second[0], 200));
}

TEST(BlockStore, AReplacedBlockReadsAsTheFreshOne) {
  BlockFixture at({});
  const auto lost = at.store_run(100);
  at.evict_all();
  const auto fresh = at.store_run(500);
  at.store.add_reference(lost[2]);
  const uint64_t last = std::max(at.store.generation(lost[2]), at.store.generation(fresh[2]));
  for (uint32_t i = 0; i < kExtentBlocks; ++i) at.store.replace(lost[i], fresh[i], true);
  // Whoever has a copy of either has one of it no more.
  EXPECT_GT(at.store.generation(lost[2]), last);
  EXPECT_GT(at.store.generation(fresh[2]), last);
  EXPECT_TRUE(at.holds(lost[2], 502));
  EXPECT_EQ(at.store.references(lost[2]), 2u);
  EXPECT_EQ(at.store.references(fresh[2]), 1u);
  at.release(fresh);  // with the old bytes and the old place
  EXPECT_EQ(at.spill.places->n_taken(), 1u);
  at.evict_all();
  ASSERT_TRUE(at.take(at.store.extent_of(lost[2])));
  EXPECT_TRUE(at.holds(lost[2], 502));
  at.store.release(at.store.extent_of(lost[2]));
  at.store.release(lost[2]);
  at.release(lost);
  EXPECT_EQ(at.spill.places->n_taken(), 0u);
}

TEST(BlockStore, TheFirstAndTheLastExtentOfALayerLeaveLast) {
  BlockFixture at({.n_slots = 32});
  std::vector<BlockFixture::Run> runs;
  for (uint64_t i = 0; i < 4; ++i) runs.push_back(at.store_run(100 * (i + 1)));
  for (const size_t expected : {2u, 1u, 3u, 0u}) {
    ASSERT_TRUE(at.store.make_room(at.store.pool().n_free() + 1));
    EXPECT_FALSE(at.store.is_resident(runs[expected][0])) << expected;
  }
}

/// Writes of the step before are in flight still when the next step needs room.
TEST(BlockStore, WhatTheLastStepFrozeLeavesAfterEverythingElse) {
  BlockFixture at({.n_slots = 32});
  std::vector<BlockFixture::Run> runs;
  for (uint64_t i = 0; i < 4; ++i) {
    at.store.begin_step();
    runs.push_back(at.store_run(100 * (i + 1)));
  }
  at.store.begin_step();
  for (const size_t expected : {1u, 2u, 0u, 3u}) {
    ASSERT_TRUE(at.store.make_room(at.store.pool().n_free() + 1));
    EXPECT_FALSE(at.store.is_resident(runs[expected][0])) << expected;
  }
}

/// The victim is the same whether its write has ended or not, whatever else has been written.
TEST(BlockStore, AVictimThatIsBeingWrittenIsWaitedFor) {
  for (const FaultKind fault : {FaultKind::kNone, FaultKind::kStall}) {
    BlockFixture at({.disk = {.stall = std::chrono::seconds(3)}, .n_slots = 24});
    std::vector<BlockFixture::Run> runs(3);
    for (uint64_t i = 0; i < 3; ++i) {
      if (i == 1 && fault != FaultKind::kNone) at.spill.disk->fail_nth(1, fault);
      std::array<uint64_t, kExtentBlocks> serials;
      for (uint32_t block = 0; block < kExtentBlocks; ++block) serials[block] = 100 * i + block;
      ASSERT_TRUE(at.open(serials, runs[i]));
      at.freeze(0, 0, i, runs[i]);
    }
    ASSERT_TRUE(at.store.make_room(1));
    EXPECT_FALSE(at.store.is_resident(runs[1][0]));
    EXPECT_TRUE(at.store.is_resident(runs[0][0]));
    EXPECT_TRUE(at.store.is_resident(runs[2][0]));
  }
}

TEST(BlockStore, AStoppedFreezeLeavesNothingAndSucceedsLater) {
  BlockFixture at({.n_slots = 16, .n_frames = 1});
  const auto first = at.store_run(100);
  at.spill.disk->fail_nth(at.spill.disk->n_submitted(), FaultKind::kStall);
  at.evict_all();
  const ExtentId read = at.store.extent_of(first[0]);
  ASSERT_TRUE(at.store.fetch(read));  // holds the only frame for two seconds
  std::array<uint64_t, kExtentBlocks> serials{200, 201, 202, 203, 204, 205, 206, 207};
  BlockFixture::Run second;
  ASSERT_TRUE(at.open(serials, second));
  const std::array<Hash128, kExtentBlocks> chain{};
  const std::atomic<bool> stopped = true;
  at.store.set_cancel(&stopped);
  EXPECT_FALSE(at.store.freeze(0, 0, chain, second));
  try {
    at.store.take({&read, 1}, at.serial_pool);
    ADD_FAILURE() << "was not stopped";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  }
  EXPECT_LT(at.spill.disk->now(), std::chrono::seconds(1));
  EXPECT_FALSE(at.store.is_frozen(second[0]));
  EXPECT_EQ(at.spill.places->n_taken(), 1u);
  EXPECT_EQ(at.store.counts().frames_refused, 0u);
  at.store.set_cancel(nullptr);
  ASSERT_TRUE(at.take(read));  // the ticket was not lost: nothing is read twice
  EXPECT_TRUE(at.holds(first[6], 106));
  EXPECT_EQ(at.store.transfers()->counts().reads, 1u);
  at.store.release(read);
  at.store.release(read);
  EXPECT_TRUE(at.store.freeze(0, 0, chain, second));
}

TEST(BlockStoreDeathTest, AWrongUseIsABug) {
  BlockFixture at({});
  const auto run = at.store_run(100);
  const ExtentId extent = at.store.extent_of(run[0]);
  EXPECT_DEATH(at.store.open_bytes(run[0]), "is frozen");
  EXPECT_DEATH((void)at.store.fetch(kNoExtent), "extent 4294967295 of 1");
  EXPECT_DEATH(at.store.release(extent), "is not held");
  EXPECT_DEATH((void)at.store.references(kNoBlock), "block 4294967295 of");
  at.evict_all();
  EXPECT_DEATH((void)at.store.bytes(run[0]), "neither in DRAM nor read");
  EXPECT_DEATH((at.store.take({&extent, 1}, at.serial_pool)), "is not held");
  at.release(run);
  EXPECT_DEATH(at.store.release(run[0]), "is free");
  EXPECT_DEATH(at.store.add_reference(run[0]), "is free");
  EXPECT_DEATH((void)at.store.fetch(extent), "extent 0 has no block");
}

/// Random use against a map from blocks to what they must hold.
class StoreModel {
 public:
  StoreModel(uint64_t seed, const StoreSetting& setting) : random_(seed), at_(setting) {}

  void run(uint32_t n_steps) {
    for (uint32_t step = 0; step < n_steps && !::testing::Test::HasFatalFailure(); ++step) {
      switch (random_() % 8) {
        case 0:
        case 1:
          add_extent();
          break;
        case 2:
          drop_some();
          break;
        case 3:
          if (!blocks_.empty()) at_.store.add_reference(any_block());
          break;
        case 4:
          (void)at_.store.make_room(random_() % at_.setting.n_slots);
          break;
        case 5:
          read_some();
          break;
        case 6:
          if (!held_.empty()) release_hold(random_() % held_.size());
          break;
        default:
          if (random_() % 8 == 0) (void)at_.store.wait_for_transfer();
      }
      check();
    }
  }

  /// Gives everything back: no slot, place or frame is missing.
  void end() {
    while (!held_.empty()) release_hold(0);
    while (!blocks_.empty()) drop(blocks_.begin()->first);
    at_.settle();
    EXPECT_EQ(at_.spill.places->n_taken(), 0u);
    EXPECT_EQ(at_.store.pool().n_free(), at_.store.pool().n_slots());
    EXPECT_EQ(at_.store.transfers()->n_free(), at_.setting.n_frames);
    const StoreCounts& counts = at_.store.counts();
    EXPECT_EQ(counts.corrupt_blocks + counts.lost_extents + counts.retries, 0u);
    EXPECT_EQ(counts.write_failures, 0u);
    EXPECT_TRUE(at_.store.is_frozen(at_.store_run(1)[0]));  // whatever was refused before
    EXPECT_GT(counts.extents_read, 0u);
    EXPECT_GT(counts.extents_evicted, 0u);
    EXPECT_GT(counts.places_refused, 0u);
  }

 private:
  BlockId any_block() {
    return std::next(blocks_.begin(), static_cast<int64_t>(random_() % blocks_.size()))->first;
  }
  void add_extent() {
    const uint64_t n = uint64_t{at_.setting.n_kv_heads} * kExtentBlocks;
    std::vector<uint64_t> serials(n);
    for (uint64_t& serial : serials) serial = ++serial_;
    std::vector<BlockId> blocks(n, kNoBlock);
    if (!at_.open(serials, blocks)) {
      EXPECT_LT(at_.store.pool().n_free(), n);
      if (!blocks_.empty()) drop_some();
      return;
    }
    for (uint64_t i = 0; i < n; ++i) {
      ASSERT_TRUE(blocks_.emplace(blocks[i], serials[i]).second) << "a block is there twice";
      addresses_[blocks[i]] = at_.store.bytes(blocks[i]);
    }
    // Some of an extent's blocks may belong to another one.
    if (random_() % 3 == 0)
      for (BlockId& block : blocks)
        if (random_() % 4 == 0) block = kNoBlock;
    if (std::ranges::all_of(blocks, [](BlockId block) { return block == kNoBlock; })) return;
    at_.freeze(static_cast<uint32_t>(random_() % at_.setting.n_layers), 0, serial_, blocks);
  }
  void drop(BlockId block) {
    while (at_.store.references(block) > 1) at_.store.release(block);
    at_.store.release(block);
    blocks_.erase(block);
    addresses_.erase(block);
  }
  void drop_some() {
    for (uint64_t n = random_() % 24; n > 0 && !blocks_.empty(); --n) {
      const BlockId block = any_block();
      if (at_.store.references(block) > 1) {
        at_.store.release(block);
      } else {
        drop(block);
      }
    }
  }
  void read_some() {
    if (blocks_.empty()) return;
    const BlockId block = any_block();
    if (at_.store.is_resident(block)) return;
    const ExtentId extent = at_.store.extent_of(block);
    if (!at_.store.fetch(extent)) {
      if (!held_.empty()) release_hold(0);
      return;
    }
    held_.push_back(extent);
    if (random_() % 4 == 0) return;  // not taken: on its way when it is released
    at_.store.take({&extent, 1}, at_.serial_pool);
    ASSERT_TRUE(at_.store.is_readable(block));
  }
  void release_hold(size_t i) {
    at_.store.release(held_[i]);
    held_.erase(held_.begin() + static_cast<int64_t>(i));
  }
  void check() {
    for (const auto& [block, serial] : blocks_) {
      if (!at_.store.is_readable(block)) continue;
      ASSERT_TRUE(at_.holds(block, serial));
      if (at_.store.is_resident(block)) {
        ASSERT_EQ(at_.store.bytes(block), addresses_[block]);
      }
    }
    ASSERT_LE(at_.store.pool().peak_used(), at_.setting.n_slots);
    ASSERT_LE(at_.spill.places->n_taken(), at_.setting.n_places);
  }

  std::mt19937_64 random_;
  BlockFixture at_;
  std::map<BlockId, uint64_t> blocks_;
  std::map<BlockId, const std::byte*> addresses_;  // while in DRAM
  std::vector<ExtentId> held_;
  uint64_t serial_ = 0;
};

TEST(BlockStore, EveryUseEqualsAMapOnAnHonestDisk) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (uint32_t round = 0; round < 8; ++round) {
    StoreModel model(random(), {.disk = {.seed = random(),
                                         .depth = 1 + static_cast<uint32_t>(random() % 8),
                                         .latency_spread = std::chrono::milliseconds(1)},
                                .n_layers = 3,
                                .n_kv_heads = 1 + static_cast<uint32_t>(random() % 3),
                                .n_slots = 100,
                                .n_places = 20,
                                .n_frames = 4});
    model.run(1500);
    if (HasFailure()) return;
    model.end();
  }
}

}  // namespace
}  // namespace strata::tiers
