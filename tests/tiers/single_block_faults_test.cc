// Reads of single blocks from a disk that lies: every block is the right one, or its extent is lost
// by name (law L3).
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <random>
#include <string>

#include "tests/tiers/block_fixture.h"
#include "tests/tiers/long_run.h"

namespace strata::tiers {
namespace {

using testing::BlockFixture;
using testing::StoreSetting;

/// Extents 100.., 200.. in the file alone, in a step that reads single blocks.
std::array<BlockFixture::Run, 2> store_away(BlockFixture& at) {
  const std::array runs = {at.store_run(100), at.store_run(200)};
  at.store.begin_step();
  at.store.begin_step();
  at.evict_all();
  at.store.begin_step(ReadGrain::kBlocks);
  return runs;
}

void expect_nothing_is_held(BlockFixture& at) {
  at.store.begin_step();  // checks that nothing is pinned
  at.evict_all();
  EXPECT_EQ(at.store.pool().n_free(), at.setting.n_slots);
  while (at.spill.block_transfers->wait_any()) continue;
  EXPECT_EQ(at.spill.block_transfers->n_free() + at.spill.block_transfers->n_quarantined(),
            at.setting.n_block_frames);
}

TEST(SingleBlockFaults, AReadFaultIsRepeatedOnceAndThenLostByName) {
  for (const FaultKind kind : {FaultKind::kBitFlip, FaultKind::kMisdirectedRead,
                               FaultKind::kReadError, FaultKind::kEndedEarly})
    for (const bool comes_twice : {false, true}) {
      SCOPED_TRACE(std::string(fault_kind_name(kind)) + (comes_twice ? " twice" : " once"));
      BlockFixture at({.n_block_frames = 4});
      const auto runs = store_away(at);
      const std::array<BlockId, 3> wanted = {runs[0][2], runs[0][5], runs[1][1]};
      at.spill.block_disk->fail_nth(0, kind);
      if (comes_twice) at.spill.block_disk->fail_nth(3, kind);
      ASSERT_EQ(at.pin(wanted), !comes_twice);
      const StoreCounts& counts = at.store.counts();
      EXPECT_EQ(counts.retries, 1u);
      EXPECT_EQ(counts.lost_extents, comes_twice ? 1u : 0u);
      const bool is_silent = kind == FaultKind::kBitFlip || kind == FaultKind::kMisdirectedRead;
      EXPECT_EQ(counts.corrupt_blocks, is_silent ? 1u + comes_twice : 0u);
      if (!comes_twice) {
        EXPECT_TRUE(at.holds(runs[0][2], 102));
        EXPECT_TRUE(at.holds(runs[0][5], 105));
        EXPECT_TRUE(at.holds(runs[1][1], 201));
        at.store.unpin(wanted);
      } else {
        for (const BlockId block : runs[0]) EXPECT_FALSE(at.store.is_resident(block));
      }
      expect_nothing_is_held(at);
    }
}

TEST(SingleBlockFaults, WhatWasLostIsNotReadAgain) {
  BlockFixture at({.n_block_frames = 4});
  const auto runs = store_away(at);
  at.spill.block_disk->fail_nth(0, FaultKind::kReadError);
  at.spill.block_disk->fail_nth(1, FaultKind::kReadError);
  ASSERT_FALSE(at.pin(std::span(runs[0]).first(1)));
  const uint64_t n_submitted = at.spill.block_disk->n_submitted();
  at.store.begin_blocks(runs[0]);
  EXPECT_FALSE(at.pin(std::span(runs[0]).last(1)));
  EXPECT_EQ(at.spill.block_disk->n_submitted(), n_submitted);
  EXPECT_EQ(at.store.counts().lost_extents, 1u);
  EXPECT_FALSE(at.take(at.store.extent_of(runs[0][3])));
  at.release(runs[0]);
  EXPECT_EQ(at.spill.places->n_taken(), 2u);  // the place is not trusted again
  expect_nothing_is_held(at);
}

/// A lost extent is computed again as a whole; what is pinned of it stays until it is not.
TEST(SingleBlockFaults, WhatIsPinnedOfALostExtentStaysReadable) {
  BlockFixture at({.n_block_frames = 4});
  const auto runs = store_away(at);
  const std::span<const BlockId> kept = std::span(runs[0]).first(2);
  const std::span<const BlockId> used = std::span(runs[0]).subspan(2, 2);
  ASSERT_TRUE(at.pin(kept));
  ASSERT_TRUE(at.pin(used));
  at.store.unpin(used);
  for (const uint32_t i : {0u, 1u})
    at.spill.block_disk->fail_nth(at.spill.block_disk->n_submitted() + i, FaultKind::kBitFlip);
  EXPECT_FALSE(at.pin(std::span(runs[0]).last(1)));
  EXPECT_TRUE(at.holds(kept[1], 101));
  EXPECT_FALSE(at.store.is_resident(used[0]));
  EXPECT_TRUE(at.store.make_room(at.setting.n_slots - 2));
  EXPECT_TRUE(at.holds(kept[0], 100));
  at.store.unpin(kept);
  EXPECT_FALSE(at.store.is_resident(kept[0]));
  expect_nothing_is_held(at);
}

/// From the first block of the later extent on the disk answers EIO, when blocks of the earlier one
/// are there and in use.
TEST(SingleBlockFaults, AFaultBehindAPartOfAPinIsNamedAndLeavesNothingHeld) {
  BlockFixture at({.n_block_frames = 4});
  const auto runs = store_away(at);
  std::vector<BlockId> wanted(runs[0].begin(), runs[0].end());
  wanted.insert(wanted.end(), runs[1].begin(), runs[1].end());
  const std::span<const BlockId> first = std::span(wanted).first(kExtentBlocks);
  at.store.begin_pin(wanted);
  at.store.finish_pin(first, at.serial_pool);
  EXPECT_FALSE(at.store.is_resident(wanted.back()));
  const ExtentId lost_extent = at.store.extent_of(runs[1][0]);
  at.spill.block_disk->set_faults({.read_error = 1});
  try {
    at.store.finish_pin(wanted, at.serial_pool);
    FAIL() << "nothing was thrown";
  } catch (const LostExtent& lost) {
    EXPECT_EQ(lost.extent(), lost_extent);
    EXPECT_EQ(lost.code(), ErrorCode::kIo);
    EXPECT_NE(std::string(lost.what()).find(failure_text(IoStatus::kDeviceError)),
              std::string::npos)
        << lost.what();
  }
  for (uint32_t i = 0; i < kExtentBlocks; ++i) EXPECT_TRUE(at.holds(first[i], 100 + i));
  at.store.unpin(wanted);
  expect_nothing_is_held(at);
  // A disk that answers again gives the other extent; this one is computed again, not read.
  at.spill.block_disk->set_faults({});
  at.store.begin_step(ReadGrain::kBlocks);
  const uint64_t n_submitted = at.spill.block_disk->n_submitted();
  EXPECT_FALSE(at.pin(wanted));
  EXPECT_EQ(at.spill.block_disk->n_submitted(), n_submitted);
  ASSERT_TRUE(at.pin(first));
  EXPECT_TRUE(at.holds(first.back(), 107));
  at.store.unpin(first);
  expect_nothing_is_held(at);
}

TEST(SingleBlockFaults, AHungReadIsLostByNameAndItsFrameIsQuarantined) {
  BlockFixture at({.n_block_frames = 2});
  const auto runs = store_away(at);
  at.spill.block_disk->fail_nth(0, FaultKind::kHangThenMove);
  try {
    at.store.pin(std::span(runs[0]).first(2), at.serial_pool);
    FAIL() << "nothing was thrown";
  } catch (const LostExtent& lost) {
    EXPECT_EQ(lost.extent(), at.store.extent_of(runs[0][0]));
    EXPECT_NE(std::string(lost.what()).find("timed out"), std::string::npos);
  }
  EXPECT_EQ(at.store.counts().retries, 0u);
  EXPECT_EQ(at.spill.block_transfers->n_quarantined(), 1u);
  ASSERT_TRUE(at.pin(runs[1]));  // by the other frame
  EXPECT_TRUE(at.holds(runs[1][7], 207));
  at.store.unpin(runs[1]);
  expect_nothing_is_held(at);
}

TEST(SingleBlockFaults, WithoutAFrameAnExtentIsLostInsteadOfWaitingForEver) {
  BlockFixture at({.n_block_frames = 1});
  const auto runs = store_away(at);
  at.spill.block_disk->fail_nth(0, FaultKind::kHang);
  EXPECT_FALSE(at.pin(std::span(runs[0]).first(1)));
  EXPECT_FALSE(at.pin(std::span(runs[1]).first(1)));
  EXPECT_EQ(at.spill.block_disk->n_submitted(), 1u);
  EXPECT_LT(at.spill.block_disk->now(), std::chrono::seconds(30));
  expect_nothing_is_held(at);
}

/// The place held another extent before, whose whole and rightly tagged blocks come back.
TEST(SingleBlockFaults, AnOlderGenerationIsFound) {
  BlockFixture at({.n_places = 1, .n_block_frames = 4});
  at.release(at.store_run(100));
  at.spill.disk->fail_nth(1, FaultKind::kLostWrite);
  const auto fresh = at.store_run(200);
  at.evict_all();
  at.store.begin_step(ReadGrain::kBlocks);
  EXPECT_FALSE(at.pin(std::span(fresh).first(1)));
  EXPECT_EQ(at.store.counts().corrupt_blocks, 2u);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kSingleFaults = 10'000;
#else
constexpr uint64_t kSingleFaults = 200'000;
#endif

struct SingleTally {
  std::array<uint64_t, kFaultKinds> injected{};
  uint64_t n_injected = 0;
  uint64_t wrong_reads = 0;  // ended kOk with wrong bytes, says the simulator
  uint64_t found = 0;        // reads that a tag refused
  uint64_t undetected = 0;   // blocks that were accepted and are not what was written
  uint64_t accepted = 0;     // blocks
  uint64_t lost = 0;         // extents
};

/// One store on a bad disk, whose DRAM holds a third of what is stored.
class SingleFaultRound {
 public:
  /// Where blocks are read one at a time no read is dropped: each wrong one must be found.
  explicit SingleFaultRound(std::mt19937_64& random)
      : random_(random),
        is_one_at_a_time_(random() % 2 == 0),
        at_(setting(random, is_one_at_a_time_)) {}

  void run(SingleTally& tally) {
    at_.store.begin_step(ReadGrain::kBlocks);
    for (uint32_t step = 0; step < 20'000; ++step) {
      if (stored_.size() < kStored || random_() % 64 == 0) {
        if (!write_one()) break;
        continue;
      }
      if (at_.spill.block_transfers->n_quarantined() == at_.setting.n_block_frames) break;
      read_some(tally);
    }
    at_.settle();
    add_to(tally);
  }

 private:
  static constexpr size_t kStored = 24;
  struct Stored {
    BlockFixture::Run run;
    uint64_t serial;
  };

  static StoreSetting setting(std::mt19937_64& random, bool is_one_at_a_time) {
    StoreSetting setting{.n_layers = 3,
                         .n_slots = 8 * kExtentBlocks,
                         .n_places = std::array{64u, 128u, 512u}[random() % 3],
                         .n_block_frames = 8};
    setting.disk.seed = random();
    setting.disk.faults = {
        .write_error = 0.002, .torn_write = 0.1, .misdirected_write = 0.05, .lost_write = 0.1};
    setting.block_disk.seed = random();
    if (random() % 2 == 0) setting.block_disk.latency_spread = std::chrono::milliseconds(1);
    setting.block_disk.faults = {.short_read = 0.1,
                                 .ended_early = 0.05,
                                 .read_error = 0.05,
                                 .bit_flip = 0.1,
                                 .misdirected_read = 0.1,
                                 .stall = 0.02,
                                 .hang = 0.0005,
                                 .hang_then_move = 0.0005,
                                 .bit_flips_max = std::array{1u, 3u, 64u}[random() % 3]};
    // A stall of 2 s is late then, and what came too late is not looked at.
    if (!is_one_at_a_time && random() % 4 == 0) setting.deadline = std::chrono::seconds(1);
    return setting;
  }

  /// False where the disk takes no more.
  bool write_one() {
    if (stored_.size() >= kStored) release(random_() % stored_.size());
    std::array<uint64_t, kExtentBlocks> serials;
    for (uint64_t& serial : serials) serial = ++serial_;
    Stored stored{.run = {}, .serial = serials[0]};
    if (!at_.open(serials, stored.run)) return false;
    at_.freeze(static_cast<uint32_t>(random_() % 3), 0, serials[0], stored.run);
    at_.settle();
    stored_.push_back(stored);
    if (at_.store.is_frozen(stored.run[0])) return true;
    release(stored_.size() - 1);  // the write failed
    return ++n_failed_writes_ < 8;
  }

  void release(size_t i) {
    at_.release(stored_[i].run);
    stored_[i] = stored_.back();
    stored_.pop_back();
  }

  /// The right bytes, or lost by name.
  void read_some(SingleTally& tally) {
    std::vector<BlockId> wanted;
    std::vector<uint64_t> serials;
    for (uint64_t n = is_one_at_a_time_ ? 1 : 1 + random_() % 12; n > 0; --n) {
      const Stored& stored = stored_[random_() % stored_.size()];
      const uint64_t i = random_() % kExtentBlocks;
      wanted.push_back(stored.run[i]);
      serials.push_back(stored.serial + i);
    }
    if (!is_one_at_a_time_ && random_() % 4 == 0) at_.store.begin_blocks(wanted);
    if (!is_one_at_a_time_ && random_() % 16 == 0) return;  // begun for nothing
    const uint64_t n_read = at_.store.counts().blocks_read;
    try {
      at_.store.pin(wanted, at_.serial_pool);
    } catch (const LostExtent& lost) {
      ++tally.lost;
      const auto of = std::ranges::find_if(stored_, [&](const Stored& stored) {
        return at_.store.extent_of(stored.run[0]) == lost.extent();
      });
      ASSERT_NE(of, stored_.end());
      release(static_cast<size_t>(of - stored_.begin()));
      return;
    }
    for (size_t i = 0; i < wanted.size(); ++i)
      if (!at_.holds(wanted[i], serials[i])) ++tally.undetected;
    tally.accepted += at_.store.counts().blocks_read - n_read;
    at_.store.unpin(wanted);
  }

  void add_to(SingleTally& tally) const {
    for (const SimulatedIo* disk : {at_.spill.disk, at_.spill.block_disk}) {
      for (size_t kind = 0; kind < kFaultKinds; ++kind)
        tally.injected[kind] += disk->injected(static_cast<FaultKind>(kind));
      tally.n_injected += disk->injected_total();
    }
    const uint64_t n_found = at_.store.counts().corrupt_blocks;
    const uint64_t n_wrong = at_.spill.block_disk->n_wrong_reads();
    if (is_one_at_a_time_) {
      EXPECT_EQ(n_found, n_wrong);
    } else {
      EXPECT_LE(n_found, n_wrong);
    }
    tally.wrong_reads += n_wrong;
    tally.found += n_found;
  }

  std::mt19937_64& random_;
  const bool is_one_at_a_time_;
  BlockFixture at_;
  std::vector<Stored> stored_;
  uint64_t serial_ = 0;
  uint32_t n_failed_writes_ = 0;
};

TEST(SingleBlockFaults, NoneGoesUnnoticed) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const uint64_t n_wanted = repeats("STRATA_BLOCK_FAULTS", kSingleFaults);
  SingleTally tally;
  while (tally.n_injected < n_wanted && !HasFailure()) SingleFaultRound(random).run(tally);
  const auto print = [](const char* what, uint64_t n) {
    std::printf("%12llu %s\n", static_cast<unsigned long long>(n), what);
  };
  print("is the seed", seed);
  print("faults injected", tally.n_injected);
  print("reads ended well with wrong bytes", tally.wrong_reads);
  print("reads were refused by a tag; the others were dropped before", tally.found);
  print("blocks were read rightly", tally.accepted);
  print("extents were lost by name", tally.lost);
  print("wrong blocks were accepted", tally.undetected);
  EXPECT_EQ(tally.undetected, 0u);
  ASSERT_GE(tally.n_injected, n_wanted);
  EXPECT_GT(tally.accepted, 0u);
  EXPECT_GT(tally.lost, 0u);
  for (const FaultKind kind :
       {FaultKind::kShortRead, FaultKind::kEndedEarly, FaultKind::kReadError, FaultKind::kBitFlip,
        FaultKind::kMisdirectedRead, FaultKind::kTornWrite, FaultKind::kLostWrite,
        FaultKind::kMisdirectedWrite, FaultKind::kHang, FaultKind::kHangThenMove,
        FaultKind::kStall})
    EXPECT_GT(tally.injected[static_cast<size_t>(kind)], 0u) << fault_kind_name(kind);
}

}  // namespace
}  // namespace strata::tiers
