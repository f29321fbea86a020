// A store on a disk that lies: every read gives the right bytes or fails by name (law L3).
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <random>
#include <string>

#include "tests/sanitizer.h"
#include "tests/tiers/block_fixture.h"
#include "tests/tiers/long_run.h"

namespace strata::tiers {
namespace {

using testing::BlockFixture;
using testing::StoreSetting;

/// Reads an evicted extent and expects what it must hold, or that it is lost where `is_lost`.
void expect_read(BlockFixture& at, const BlockFixture::Run& run, uint64_t serial, bool is_lost) {
  at.evict_all();
  const ExtentId extent = at.store.extent_of(run[0]);
  ASSERT_EQ(at.take(extent), !is_lost);
  if (is_lost) return;
  for (uint32_t i = 0; i < kExtentBlocks; ++i) EXPECT_TRUE(at.holds(run[i], serial + i)) << i;
  at.store.release(extent);
}

/// Each kind of read fault that must be noticed, once and twice in a row.
TEST(BlockFaults, AReadFaultIsRepeatedOnceAndThenLostByName) {
  for (const FaultKind kind : {FaultKind::kBitFlip, FaultKind::kMisdirectedRead,
                               FaultKind::kReadError, FaultKind::kEndedEarly})
    for (const bool comes_twice : {false, true}) {
      SCOPED_TRACE(std::string(fault_kind_name(kind)) + (comes_twice ? " twice" : " once"));
      BlockFixture at({});
      const auto run = at.store_run(100);
      at.spill.disk->fail_nth(1, kind);
      if (comes_twice) at.spill.disk->fail_nth(2, kind);
      expect_read(at, run, 100, comes_twice);
      const StoreCounts& counts = at.store.counts();
      EXPECT_EQ(counts.retries, 1u);
      EXPECT_EQ(counts.lost_extents, comes_twice ? 1u : 0u);
      const bool is_silent = kind == FaultKind::kBitFlip || kind == FaultKind::kMisdirectedRead;
      EXPECT_EQ(counts.corrupt_blocks > 0, is_silent);
      EXPECT_EQ(at.store.transfers()->n_free(), at.setting.n_frames);
    }
}

/// The place held another extent before, whose whole and rightly tagged bytes come back.
TEST(BlockFaults, AnOlderGenerationIsFound) {
  BlockFixture at({.n_places = 1});
  const auto old = at.store_run(100);
  at.release(old);
  at.spill.disk->fail_nth(1, FaultKind::kLostWrite);
  const auto fresh = at.store_run(200);
  ASSERT_TRUE(at.store.is_frozen(fresh[0]));
  expect_read(at, fresh, 200, true);
  EXPECT_EQ(at.store.counts().corrupt_blocks, 2 * kExtentBlocks);
  EXPECT_EQ(at.spill.disk->n_wrong_reads(), 2u);
}

TEST(BlockFaults, ATornWriteIsFoundAtTheNextRead) {
  BlockFixture at({});
  at.spill.disk->fail_nth(0, FaultKind::kTornWrite);
  expect_read(at, at.store_run(100), 100, true);
}

TEST(BlockFaults, AMisdirectedWriteIsFoundAtBothPlaces) {
  BlockFixture at({.n_places = 2});
  const auto victim = at.store_run(100);
  at.spill.disk->fail_nth(1, FaultKind::kMisdirectedWrite);
  const auto stray = at.store_run(200);
  expect_read(at, stray, 200, true);
  expect_read(at, victim, 100, true);
  EXPECT_EQ(at.store.counts().lost_extents, 2u);
}

TEST(BlockFaults, AnotherExtentOfTheSameBytesAtTheSamePlaceOfTheTextIsNotAFault) {
  BlockFixture at({.n_places = 2});
  at.store_run(100);
  const auto twin = at.store_run(100);
  at.spill.disk->fail_nth(2, FaultKind::kMisdirectedRead);
  expect_read(at, twin, 100, false);
  EXPECT_EQ(at.spill.disk->n_wrong_reads(), 0u);
}

TEST(BlockFaults, AHungReadIsLostByNameAndNotRepeated) {
  BlockFixture at({});
  const auto run = at.store_run(100);
  at.spill.disk->fail_nth(1, FaultKind::kHangThenMove);
  at.evict_all();
  const ExtentId extent = at.store.extent_of(run[0]);
  ASSERT_TRUE(at.store.fetch(extent));
  try {
    at.store.take({&extent, 1}, at.serial_pool);
    FAIL() << "nothing was thrown";
  } catch (const LostExtent& lost) {
    EXPECT_EQ(lost.extent(), extent);
    EXPECT_EQ(lost.layer(), 0u);
    EXPECT_EQ(lost.first_pos(), 0u);
    EXPECT_EQ(lost.code(), ErrorCode::kIo);
    EXPECT_NE(std::string(lost.what()).find("layer 0, positions 0 to 255"), std::string::npos);
    EXPECT_NE(std::string(lost.what()).find("timed out"), std::string::npos);
  }
  EXPECT_EQ(at.store.counts().retries, 0u);
  EXPECT_EQ(at.store.transfers()->n_quarantined(), 1u);
  // Lost once is lost for good: nobody reads that place again.
  const uint64_t n_submitted = at.spill.disk->n_submitted();
  EXPECT_FALSE(at.take(extent));
  EXPECT_EQ(at.spill.disk->n_submitted(), n_submitted);
  EXPECT_EQ(at.store.counts().lost_extents, 1u);
  at.store.release(extent);
  at.release(run);
  EXPECT_EQ(at.spill.places->n_taken(), 1u);
}

constexpr uint64_t kFaults = sanitizer::rounds(1'000'000, 20'000);

/// What all rounds together did and saw.
struct Tally {
  std::array<uint64_t, kFaultKinds> injected{};
  uint64_t n_injected = 0;
  uint64_t wrong_reads = 0;  // ended kOk with wrong bytes, says the simulator
  uint64_t found = 0;        // reads that a tag refused
  uint64_t undetected = 0;   // blocks that were accepted and are not what was written
  uint64_t accepted = 0;     // extents
  uint64_t lost = 0;         // extents
  uint64_t failed = 0;       // transfers with another status
};

/// One store on a bad disk, used until the disk has too little left.
class FaultRound {
 public:
  explicit FaultRound(std::mt19937_64& random)
      : random_(random), drops_reads_(random() % 4 == 0), at_(setting(random, drops_reads_)) {}

  void run(Tally& tally) {
    for (uint32_t step = 0; step < 20'000; ++step) {
      if (stored_.size() < kStored || random_() % 16 == 0) {
        if (!write_some()) break;
        continue;
      }
      if (drops_reads_ && random_() % 8 == 0) drop_a_read();
      if (!read(random_() % stored_.size(), tally)) break;
    }
    at_.settle();
    add_to(tally);
  }

 private:
  static constexpr size_t kStored = 24;
  static constexpr uint32_t kSlots = 8 * kExtentBlocks;
  struct Stored {
    BlockFixture::Run run;
    uint64_t serial;
  };

  static StoreSetting setting(std::mt19937_64& random, bool drops_reads) {
    StoreSetting setting{.n_layers = 3,
                         .n_slots = kSlots,
                         .n_places = std::array{64u, 128u, 512u}[random() % 3],
                         .n_frames = 8};
    SimulatedDisk& disk = setting.disk;
    disk.seed = random();
    if (random() % 2 == 0) disk.latency_spread = std::chrono::milliseconds(1);
    disk.faults = {.short_read = 0.1,
                   .ended_early = 0.05,
                   .read_error = 0.05,
                   .bit_flip = 0.2,
                   .misdirected_read = 0.2,
                   .short_write = 0.1,
                   .write_error = 0.002,
                   .no_space = 0.0001,
                   .torn_write = 0.1,
                   .misdirected_write = 0.05,
                   .lost_write = 0.1,
                   .stall = 0.02,
                   .hang = 0.0005,
                   .hang_then_move = 0.0005,
                   .bit_flips_max = std::array{1u, 3u, 64u}[random() % 3]};
    // A stall of 2 s is late then.
    if (drops_reads) setting.deadline = std::chrono::seconds(1);
    return setting;
  }

  /// Writes a few extents and puts them out of DRAM. False where the disk takes no more.
  bool write_some() {
    for (uint32_t n = 1 + static_cast<uint32_t>(random_() % 4); n > 0; --n) {
      if (stored_.size() >= kStored) release(random_() % stored_.size());
      std::array<uint64_t, kExtentBlocks> serials;
      for (uint64_t& serial : serials) serial = ++serial_;
      Stored stored{.run = {}, .serial = serials[0]};
      if (!at_.open(serials, stored.run)) return false;
      at_.freeze(static_cast<uint32_t>(random_() % 3), 0, serials[0], stored.run);
      stored_.push_back(stored);
    }
    at_.evict_all();
    for (size_t i = stored_.size(); i-- > 0;) {
      if (!at_.store.is_resident(stored_[i].run[0])) continue;
      release(i);  // its write failed
      if (++n_failed_writes_ > 12) return false;
    }
    return !stored_.empty();
  }

  void release(size_t i) {
    at_.release(stored_[i].run);
    stored_[i] = stored_.back();
    stored_.pop_back();
  }

  /// The right bytes, or lost by name. False where no frame is left.
  bool read(size_t i, Tally& tally) {
    const Stored& stored = stored_[i];
    const ExtentId extent = at_.store.extent_of(stored.run[0]);
    while (!at_.store.fetch(extent))
      if (!at_.store.wait_for_transfer()) return false;
    bool is_lost = false;
    try {
      at_.store.take({&extent, 1}, at_.serial_pool);
      ++accepted_;
      for (uint32_t block = 0; block < kExtentBlocks; ++block)
        if (!at_.holds(stored.run[block], stored.serial + block)) ++tally.undetected;
    } catch (const LostExtent& lost) {
      EXPECT_EQ(lost.extent(), extent);
      is_lost = true;
      ++tally.lost;
    }
    at_.store.release(extent);
    if (is_lost) release(i);
    return true;
  }

  void drop_a_read() {
    const ExtentId extent = at_.store.extent_of(stored_[random_() % stored_.size()].run[0]);
    if (at_.store.fetch(extent)) at_.store.release(extent);
  }

  void add_to(Tally& tally) const {
    const SimulatedIo& disk = *at_.spill.disk;
    for (size_t kind = 0; kind < kFaultKinds; ++kind)
      tally.injected[kind] += disk.injected(static_cast<FaultKind>(kind));
    tally.n_injected += disk.injected_total();
    const uint64_t n_found = at_.store.counts().extents_read - accepted_;
    // A dropped read may have been wrong, and nobody looked.
    if (drops_reads_) {
      EXPECT_LE(n_found, disk.n_wrong_reads());
      tally.wrong_reads += n_found;
    } else {
      EXPECT_EQ(n_found, disk.n_wrong_reads());
      tally.wrong_reads += disk.n_wrong_reads();
    }
    tally.found += n_found;
    tally.accepted += accepted_;
    tally.failed += at_.store.transfers()->counts().failed;
  }

  std::mt19937_64& random_;
  const bool drops_reads_;
  BlockFixture at_;
  std::vector<Stored> stored_;
  uint64_t serial_ = 0;
  uint64_t accepted_ = 0;
  uint32_t n_failed_writes_ = 0;
};

TEST(BlockFaults, NoneOfAMillionGoesUnnoticed) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const uint64_t n_wanted = repeats("STRATA_FAULTS", kFaults);
  Tally tally;
  uint64_t n_rounds = 0;
  for (; tally.n_injected < n_wanted && !HasFailure(); ++n_rounds) FaultRound(random).run(tally);
  const auto print = [](const char* what, uint64_t n) {
    std::printf("%12llu %s\n", static_cast<unsigned long long>(n), what);
  };
  print("is the seed", seed);
  print("stores, each on a disk of its own", n_rounds);
  print("faults injected", tally.n_injected);
  for (size_t kind = 1; kind < kFaultKinds; ++kind)
    if (tally.injected[kind] > 0)
      print(("  of these: " + std::string(fault_kind_name(static_cast<FaultKind>(kind)))).c_str(),
            tally.injected[kind]);
  print("transfers failed or timed out with a status", tally.failed);
  print("reads ended well with wrong bytes", tally.wrong_reads);
  print("reads were refused by a tag", tally.found);
  print("extents were read rightly", tally.accepted);
  print("extents were lost by name", tally.lost);
  print("wrong blocks were accepted", tally.undetected);
  EXPECT_EQ(tally.undetected, 0u);
  EXPECT_EQ(tally.found, tally.wrong_reads);
  ASSERT_GE(tally.n_injected, n_wanted);
  EXPECT_GT(tally.accepted, 0u);
  EXPECT_GT(tally.lost, 0u);
  for (const FaultKind kind :
       {FaultKind::kBitFlip, FaultKind::kMisdirectedRead, FaultKind::kTornWrite,
        FaultKind::kLostWrite, FaultKind::kMisdirectedWrite, FaultKind::kHang,
        FaultKind::kHangThenMove, FaultKind::kStall, FaultKind::kReadError})
    EXPECT_GT(tally.injected[static_cast<size_t>(kind)], 0u) << fault_kind_name(kind);
  // Rule of three: with none in n, the rate is below 3 / n with 95 % confidence.
  std::printf("below %.3g of faults, and below %.3g of wrong reads, go unnoticed (95 %%)\n",
              3.0 / static_cast<double>(tally.n_injected),
              3.0 / static_cast<double>(tally.wrong_reads));
}

}  // namespace
}  // namespace strata::tiers
