// Extents of packs that are read into the slots they stay in, on a simulated disk.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <random>
#include <string>

#include "tests/sanitizer.h"
#include "tests/tiers/long_run.h"
#include "tests/tiers/pack_store.h"

namespace strata::tiers {
namespace {

using testing::PackStore;
using testing::PackStoreSetting;

constexpr uint64_t kJoinAll = uint64_t{1} << 20;

TEST(DirectReads, NeighboursInAFileAreOneRequestIntoTheirSlots) {
  PackStore at({.n_frames = 1, .join_bytes = kJoinAll});
  at.fetch(at.all());
  EXPECT_EQ(at.disk->n_submitted(), 1u) << "12 extents that follow each other";
  EXPECT_EQ(at.n_free_slots(), 0u) << "slots that something is read into are taken";
  at.store.take(at.all(), at.serial_pool);
  for (size_t i = 0; i < at.adopted.size(); ++i) {
    at.store.release(at.extent(i));
    EXPECT_TRUE(at.holds(i)) << i;
  }
  const StoreCounts& counts = at.store.counts();
  EXPECT_EQ(counts.extents_in_place, 12u);
  EXPECT_EQ(counts.extents_settled, 12u);
  EXPECT_EQ(counts.extents_read, 12u);
  EXPECT_FALSE(at.store.has_away());
  EXPECT_TRUE(at.nothing_is_held());
  EXPECT_EQ(at.transfers().counts().reads, 12u);
  EXPECT_EQ(at.transfers().counts().requests, 1u);
}

TEST(DirectReads, WhatIsJoinedStaysBelowItsBound) {
  PackStore at({.join_bytes = uint64_t{3} << 14});  // of three extents
  at.fetch(at.all());
  EXPECT_EQ(at.disk->n_submitted(), 4u);
  for (const ExtentId id : at.all()) EXPECT_TRUE(at.take(id));
}

/// Read alone once more, into a frame; the others that were read with it are as they were.
TEST(DirectReads, AFaultIsRepeatedOnceAndThenLostByName) {
  for (const FaultKind kind : {FaultKind::kBitFlip, FaultKind::kReadError, FaultKind::kEndedEarly})
    for (const bool comes_twice : {false, true}) {
      SCOPED_TRACE(std::string(fault_kind_name(kind)) + (comes_twice ? " twice" : " once"));
      PackStore at({.n_layers = 1, .n_extents = 1});
      at.disk->fail_nth(0, kind);
      if (comes_twice) at.disk->fail_nth(1, kind);
      at.fetch(at.all());
      EXPECT_EQ(at.take(at.extent(0)), !comes_twice);
      EXPECT_EQ(at.store.counts().retries, 1u);
      EXPECT_EQ(at.store.counts().extents_in_place, 0u);
      EXPECT_EQ(at.store.counts().lost_extents, comes_twice ? 1u : 0u);
      EXPECT_EQ(at.n_free_slots(), comes_twice ? at.n_slots() : 0u);
      EXPECT_EQ(at.holds(0), !comes_twice);
      EXPECT_TRUE(at.nothing_is_held());
    }
}

TEST(DirectReads, AJoinedRequestThatFailsIsReadAgainExtentByExtent) {
  PackStore at({.join_bytes = kJoinAll});
  at.disk->fail_nth(0, FaultKind::kReadError);
  at.disk->fail_nth(3, FaultKind::kReadError);  // the third extent alone
  at.fetch(at.all());
  ASSERT_EQ(at.disk->n_submitted(), 1u);
  for (size_t i = 0; i < at.adopted.size(); ++i) EXPECT_EQ(at.take(at.extent(i)), i != 2) << i;
  EXPECT_EQ(at.store.counts().retries, 12u);
  EXPECT_EQ(at.store.counts().lost_extents, 1u);
  EXPECT_EQ(at.n_free_slots(), at.extent_blocks());
  EXPECT_TRUE(at.nothing_is_held());
}

/// Nobody gets slots that a device may still write; where it ends at last, they come back.
TEST(DirectReads, SlotsOfAHungReadAreNobodysUntilItEnds) {
  for (const FaultKind kind : {FaultKind::kStall, FaultKind::kHangThenMove}) {
    SCOPED_TRACE(fault_kind_name(kind));
    PackStore at({.n_layers = 1, .n_extents = 2});
    at.disk->fail_nth(0, kind);
    at.fetch(at.all());
    EXPECT_FALSE(at.take(at.extent(0)));
    EXPECT_NE(at.cause.find("timed out"), std::string::npos) << at.cause;
    EXPECT_TRUE(at.take(at.extent(1)));
    EXPECT_TRUE(at.holds(1));
    EXPECT_EQ(at.store.counts().retries, 0u);
    EXPECT_EQ(at.store.n_lost_slots(), at.extent_blocks());
    EXPECT_EQ(at.transfers().n_lent_quarantined(), 1u);
    EXPECT_TRUE(at.transfers().has_lent_memory());
    EXPECT_EQ(at.n_free_slots(), 0u);
    EXPECT_FALSE(at.store.open_block(kNoBlock).has_value());
    // The simulator ends the process where memory in flight is used or found to be touched.
    at.disk->advance(std::chrono::seconds(2));
    at.store.poll();
    const bool has_ended = kind == FaultKind::kStall;
    EXPECT_EQ(at.store.n_lost_slots(), has_ended ? 0u : at.extent_blocks());
    EXPECT_EQ(at.n_free_slots(), has_ended ? at.extent_blocks() : 0u);
    EXPECT_EQ(at.store.open_block(kNoBlock).has_value(), has_ended);
    EXPECT_EQ(at.nothing_is_held(), has_ended);
  }
}

TEST(DirectReads, AStoreMayEndWhileADeviceOwnsItsSlots) {
  for (const FaultKind kind : {FaultKind::kHang, FaultKind::kHangThenMove}) {
    PackStore at({.n_layers = 1, .n_extents = 1});
    at.disk->fail_nth(0, kind);
    at.fetch(at.all());
    EXPECT_TRUE(at.transfers().has_lent_memory());
  }
}

TEST(DirectReads, WhatIsDroppedComesBackForWhoeverNeedsRoom) {
  PackStore at({.join_bytes = kJoinAll});
  at.fetch(at.all());
  for (const ExtentId id : at.all()) at.store.release(id);
  EXPECT_EQ(at.store.n_lost_slots(), at.n_slots());
  EXPECT_EQ(at.n_free_slots(), 0u);
  EXPECT_TRUE(at.store.make_room(at.n_slots()));
  EXPECT_EQ(at.store.counts().extents_evicted, 0u);
  EXPECT_TRUE(at.nothing_is_held());
  at.fetch(at.all());
  at.settle();  // dropped after it has come, its slots are free at once
  for (const ExtentId id : at.all()) at.store.release(id);
  EXPECT_EQ(at.n_free_slots(), at.n_slots());
  EXPECT_TRUE(at.nothing_is_held());
}

TEST(DirectReads, WhatHungIsNotWaitedForByWhoeverNeedsRoom) {
  PackStore at({.n_layers = 1, .n_extents = 1});
  at.disk->fail_nth(0, FaultKind::kHang);
  at.fetch(at.all());
  EXPECT_FALSE(at.take(at.extent(0)));
  const auto before = at.disk->now();
  EXPECT_FALSE(at.store.make_room(1));
  EXPECT_LT(at.disk->now() - before, std::chrono::milliseconds(1));
}

TEST(DirectReads, BlocksThatAreFreedMeanwhileGetNoSlot) {
  PackStore at({.n_layers = 1, .n_extents = 1});
  at.fetch(at.all());
  auto& blocks = at.adopted[0].blocks;
  at.store.release(blocks[3]);
  at.store.release(blocks[15]);
  EXPECT_TRUE(at.take(at.extent(0)));
  EXPECT_EQ(at.n_free_slots(), 2u);
  EXPECT_EQ(at.store.counts().extents_in_place, 1u);
  for (const uint32_t i : {3u, 15u}) blocks.erase(blocks.begin() + std::min<uint32_t>(i, 14));
  for (const BlockId block : blocks) EXPECT_TRUE(at.store.is_resident(block));
  for (const BlockId block : blocks) at.store.release(block);
  EXPECT_EQ(at.n_free_slots(), at.n_slots());
}

TEST(DirectReads, WithoutNeighbouringRunsAnExtentComesThroughAFrame) {
  PackStore at({.n_layers = 1, .n_extents = 1, .n_slots = 5 * kExtentBlocks});
  std::vector<BlockId> open;  // one in each run
  for (uint32_t run = 0; run < 5; ++run) open.push_back(*at.store.open_block(kNoBlock));
  for (const uint32_t run : {1u, 3u}) at.store.release(open[run]);
  at.fetch(at.all());
  EXPECT_EQ(at.transfers().n_free(), at.setting.n_frames - 1);
  EXPECT_TRUE(at.take(at.extent(0)));
  EXPECT_TRUE(at.holds(0));
  EXPECT_EQ(at.store.counts().extents_settled, 1u);
  EXPECT_EQ(at.store.counts().extents_in_place, 0u);
}

TEST(DirectReads, WhereRoomIsKeptForOthersAnExtentStaysInAFrame) {
  PackStore at({.n_layers = 1, .n_extents = 2});
  at.store.set_headroom(at.extent_blocks());
  at.fetch(at.all());  // the first takes what there is beyond the headroom
  EXPECT_EQ(at.n_free_slots(), at.extent_blocks());
  EXPECT_EQ(at.transfers().n_free(), at.setting.n_frames - 1);
  for (const ExtentId id : at.all()) EXPECT_TRUE(at.take(id));
  EXPECT_EQ(at.store.counts().extents_in_place, 1u);
  EXPECT_EQ(at.store.counts().extents_settled, 1u);
  EXPECT_EQ(at.n_free_slots(), at.extent_blocks());
}

/// Padded extents are joined in frames where alone they would be small requests.
TEST(DirectReads, PaddedExtentsAreReadRightly) {
  struct Case {
    uint32_t n_kv_heads, alignment;
    bool is_in_place;
    uint64_t n_requests;
  };
  // q8_0 of 64 dimensions: blocks of 4,352 bytes, a run of them 34,816 = 8.5 x 4,096.
  for (const Case& of : {Case{2, 512, true, 1}, Case{3, 512, false, 1}, Case{5, 512, true, 4},
                         Case{5, 4096, false, 1}}) {
    SCOPED_TRACE(std::to_string(of.n_kv_heads) + " heads, " + std::to_string(of.alignment));
    PackStore at({.disk = {.alignment = of.alignment},
                  .codec = KvCodec::kQ8_0,
                  .head_dim = 64,
                  .n_kv_heads = of.n_kv_heads,
                  .n_layers = 2,
                  .n_extents = 2,
                  .join_bytes = kJoinAll});
    ASSERT_EQ(at.layout.block_bytes, 4352u);
    at.fetch(at.all());
    EXPECT_EQ(at.disk->n_submitted(), of.n_requests);
    EXPECT_EQ(at.n_free_slots() == 0, of.is_in_place);
    for (const ExtentId id : at.all()) EXPECT_TRUE(at.take(id));
    for (size_t i = 0; i < at.adopted.size(); ++i) EXPECT_TRUE(at.holds(i)) << i;
    EXPECT_EQ(at.store.counts().extents_in_place, of.is_in_place ? 4u : 0u);
    EXPECT_EQ(at.store.counts().extents_settled, 4u);
    EXPECT_TRUE(at.nothing_is_held());
  }
}

constexpr uint64_t kDirectFaults = sanitizer::rounds(200'000, 10'000);

/// One store on a bad disk: reads in place, in frames and dropped ones, in any order.
class DirectRound {
 public:
  explicit DirectRound(std::mt19937_64& random)
      : random_(random), drops_(random() % 4 == 0), at_(setting(random, drops_)) {}

  void run() {
    for (uint32_t step = 0; step < 4'000 && at_.store.n_lost_slots() == 0; ++step) {
      if (random_() % 8 == 0) (void)at_.store.make_room(random_() % (at_.n_slots() + 1));
      if (drops_ && random_() % 8 == 0) {
        const ExtentId id = at_.extent(random_() % at_.adopted.size());
        if (at_.store.fetch(id)) at_.store.release(id);
        at_.settle();
      }
      read_some();
    }
  }
  const PackStore& at() const { return at_; }
  bool drops() const { return drops_; }
  uint64_t n_accepted() const { return n_accepted_; }
  uint64_t n_undetected() const { return n_undetected_; }
  uint64_t n_lost() const { return n_lost_; }

 private:
  static PackStoreSetting setting(std::mt19937_64& random, bool drops) {
    PackStoreSetting setting{.n_layers = 2, .n_extents = 8};
    // Room for all, or so little that frames are needed as well.
    if (random() % 2 == 0) setting.n_slots = 16 * (3 + static_cast<uint32_t>(random() % 12));
    SimulatedDisk& disk = setting.disk;
    disk.seed = random();
    if (random() % 2 == 0) disk.latency_spread = std::chrono::milliseconds(1);
    disk.faults = {.short_read = 0.1,
                   .ended_early = 0.05,
                   .read_error = 0.05,
                   .bit_flip = 0.2,
                   .misdirected_read = 0.2,
                   .stall = 0.02,
                   .hang = 0.0002,
                   .hang_then_move = 0.0002,
                   .bit_flips_max = std::array{1u, 3u, 64u}[random() % 3]};
    if (!drops) setting.deadline = std::chrono::seconds(10);
    return setting;
  }
  /// Some extents together; what is lost is adopted anew.
  void read_some() {
    std::vector<size_t> order;
    for (size_t i = 0; i < at_.adopted.size(); ++i)
      if (random_() % 2 == 0 && !at_.is_resident(i)) order.push_back(i);
    std::ranges::shuffle(order, random_);
    size_t n_fetched = 0;
    while (n_fetched < order.size() && at_.store.fetch(at_.extent(order[n_fetched]))) ++n_fetched;
    order.resize(n_fetched);
    for (const size_t i : order) {
      const ExtentId id = at_.extent(i);
      bool is_right = true;
      try {
        at_.store.take({&id, 1}, at_.serial_pool);
      } catch (const LostExtent&) {
        is_right = false;
      }
      if (is_right) {
        ++n_accepted_;
        if (!at_.has_right_bytes(i)) ++n_undetected_;
      }
      at_.store.release(id);
      if (is_right) continue;
      ++n_lost_;
      at_.adopt_anew(i);
    }
  }

  std::mt19937_64& random_;
  bool drops_;
  PackStore at_;
  uint64_t n_accepted_ = 0, n_undetected_ = 0, n_lost_ = 0;
};

TEST(DirectReads, NoFaultGoesUnnoticed) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const uint64_t n_wanted = repeats("STRATA_DIRECT_FAULTS", kDirectFaults);
  uint64_t n_injected = 0, n_accepted = 0, n_in_place = 0, n_lost = 0, n_wrong = 0, n_hung = 0;
  while (n_injected < n_wanted && !HasFailure()) {
    DirectRound round(random);
    round.run();
    const StoreCounts& counts = round.at().store.counts();
    const uint64_t n_refused = counts.extents_read - round.n_accepted();
    EXPECT_EQ(round.n_undetected(), 0u);
    // A dropped read may have been wrong, and nobody looked.
    if (round.drops()) {
      EXPECT_LE(n_refused, round.at().disk->n_wrong_reads());
    } else {
      EXPECT_EQ(n_refused, round.at().disk->n_wrong_reads());
    }
    n_injected += round.at().disk->injected_total();
    n_accepted += round.n_accepted();
    n_in_place += counts.extents_in_place;
    n_lost += round.n_lost();
    n_wrong += n_refused;
    n_hung += round.at().transfers().n_lent_quarantined();
  }
  std::printf(
      "seed %llu: %llu faults, %llu extents right, %llu of them in place, %llu lost, "
      "%llu refused by a tag, %llu reads hung in their slots\n",
      static_cast<unsigned long long>(seed), static_cast<unsigned long long>(n_injected),
      static_cast<unsigned long long>(n_accepted), static_cast<unsigned long long>(n_in_place),
      static_cast<unsigned long long>(n_lost), static_cast<unsigned long long>(n_wrong),
      static_cast<unsigned long long>(n_hung));
  EXPECT_GT(n_in_place, 0u);
  EXPECT_GT(n_accepted, n_in_place) << "none came through a frame";
  EXPECT_GT(n_lost, 0u);
}

}  // namespace
}  // namespace strata::tiers
