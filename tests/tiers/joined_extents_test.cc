// Small extents that are frozen one after the other are written together: what comes back is right,
// and a request that fails loses nothing.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <string>
#include <vector>

#include "tests/tiers/block_fixture.h"

namespace strata::tiers {
namespace {

using testing::BlockFixture;
using testing::StoreSetting;

constexpr uint64_t kJoinedPlace = 8192;  // one head's eight blocks of 1 KiB
constexpr uint32_t kJoinedLayers = 3;

/// A store whose extents are joined by fours at most, and the extents of a chunk.
struct JoiningStore : BlockFixture {
  using Runs = std::vector<Run>;  // of a layer

  explicit JoiningStore(const StoreSetting& of = {}) : BlockFixture(joining(of)) {}

  static StoreSetting joining(StoreSetting of) {
    of.n_layers = kJoinedLayers;
    of.n_slots = 1024;
    of.n_places = 96;
    if (of.n_frames == StoreSetting{}.n_frames) of.n_frames = 32;
    of.join_bytes = 4 * kJoinedPlace;
    return of;
  }
  static uint64_t serial(uint32_t layer, uint32_t extent) { return layer * 1000 + extent * 10; }

  /// Extents [from, from + n) of every layer, frozen as KvCache does.
  std::vector<Runs> freeze_chunk(uint32_t from, uint32_t n) {
    std::vector<Runs> layers(kJoinedLayers);
    for (uint32_t layer = 0; layer < kJoinedLayers; ++layer) {
      for (uint32_t i = 0; i < n; ++i) layers[layer].push_back(open_run(layer, from + i));
      for (uint32_t i = 0; i < n; ++i)
        freeze(layer, (from + i) * kExtentPositions, serial(layer, from + i), layers[layer][i],
               n - i);
    }
    store.begin_writes();
    return layers;
  }
  Run open_run(uint32_t layer, uint32_t extent) {
    std::array<uint64_t, kExtentBlocks> serials;
    for (uint32_t i = 0; i < kExtentBlocks; ++i) serials[i] = serial(layer, extent) + i;
    Run run;
    EXPECT_TRUE(open(serials, run));
    return run;
  }
  /// Whether all of it is there, in DRAM or read back.
  bool is_whole(const Run& run, uint32_t layer, uint32_t extent) {
    const bool is_away = !store.is_resident(run[0]);
    const ExtentId id = store.extent_of(run[0]);
    if (is_away && !take(id)) return false;
    bool is_right = true;
    for (uint32_t i = 0; i < kExtentBlocks; ++i)
      is_right = is_right && holds(run[i], serial(layer, extent) + i);
    if (is_away) store.release(id);
    return is_right;
  }
  const TransferCounts& moved() const { return store.transfers()->counts(); }
};

TEST(JoinedExtents, ThoseThatAChunkClosesAreWrittenTogetherAndReadBack) {
  for (const uint32_t n : {2u, 4u, 5u, 8u}) {
    SCOPED_TRACE(n);
    JoiningStore at;
    const auto layers = at.freeze_chunk(0, n);
    EXPECT_EQ(at.moved().requests, uint64_t{kJoinedLayers} * ((n + 3) / 4));
    EXPECT_EQ(at.spill.disk->n_submitted(), at.moved().requests) << "nothing waits for a poll";
    at.settle();
    EXPECT_EQ(at.moved().writes, uint64_t{kJoinedLayers} * n);
    EXPECT_EQ(at.moved().written_bytes, at.moved().writes * kJoinedPlace);
    EXPECT_EQ(at.store.counts().extents_written, at.moved().writes);
    at.evict_all();
    for (uint32_t layer = 0; layer < kJoinedLayers; ++layer)
      for (uint32_t i = 0; i < n; ++i) {
        EXPECT_FALSE(at.store.is_resident(layers[layer][i][0]));
        EXPECT_TRUE(at.is_whole(layers[layer][i], layer, i)) << layer << " " << i;
      }
    EXPECT_TRUE(at.all_frames_are_free());
  }
}

/// Decoding closes one extent of a layer at a time: their places are far apart.
TEST(JoinedExtents, OneOfEachLayerIsARequestOfItsOwn) {
  JoiningStore at;
  at.freeze_chunk(0, 1);
  EXPECT_EQ(at.moved().requests, kJoinedLayers);
}

/// Fewer frames than a chunk closes extents, and of an odd number.
TEST(JoinedExtents, WhereFramesAreScarceTheyAreWaitedForTogether) {
  for (const uint32_t n_frames : {4u, 5u, 7u, 9u}) {
    SCOPED_TRACE(n_frames);
    JoiningStore at({.disk = {.seed = n_frames, .latency_spread = std::chrono::milliseconds(1)},
                     .n_frames = n_frames});
    for (uint32_t chunk = 0; chunk < 8; ++chunk) {
      at.freeze_chunk(2 * chunk, 2);
      EXPECT_EQ(at.moved().requests, uint64_t{kJoinedLayers} * (chunk + 1));
    }
    at.settle();
    EXPECT_EQ(at.store.counts().extents_written, 16 * kJoinedLayers);
    EXPECT_EQ(at.store.counts().frames_refused, 0u);
  }
}

/// Where readers hold the others, the last frame is used, and nobody waits for what does not come.
TEST(JoinedExtents, AFrameIsUsedAloneWhereNoWriteWillFreeAnother) {
  JoiningStore at({.n_frames = 2});
  const auto first = at.freeze_chunk(0, 1);
  at.settle();
  at.evict_all();
  const ExtentId read = at.store.extent_of(first[0][0][0]);
  ASSERT_TRUE(at.take(read));
  const auto more = at.freeze_chunk(1, 2);
  at.settle();
  EXPECT_EQ(at.store.counts().extents_written, 3 * kJoinedLayers);
  EXPECT_EQ(at.store.counts().frames_refused, 0u);
  for (uint32_t layer = 0; layer < kJoinedLayers; ++layer)
    for (uint32_t i = 0; i < 2; ++i) EXPECT_TRUE(at.is_whole(more[layer][i], layer, 1 + i));
  at.store.release(read);
}

/// Each kind of failure of the second layer's request.
TEST(JoinedExtents, AFailedRequestLosesNothingAndItsPlacesAreAsTheFailureSays) {
  for (const FaultKind fault : {FaultKind::kWriteError, FaultKind::kNoSpace, FaultKind::kHang,
                                FaultKind::kHangThenMove, FaultKind::kStall}) {
    SCOPED_TRACE(fault_kind_name(fault));
    JoiningStore at({.deadline = std::chrono::seconds(1)});
    at.spill.disk->fail_nth(1, fault);
    const auto layers = at.freeze_chunk(0, 3);
    at.settle();
    EXPECT_EQ(at.moved().requests, kJoinedLayers);
    EXPECT_EQ(at.store.counts().write_failures, 3u) << "of extents";
    EXPECT_EQ(at.store.counts().extents_written, 6u);
    EXPECT_EQ(at.moved().failed, 3u);
    EXPECT_EQ(at.moved().failed_write_requests, 1u);
    at.evict_all();
    for (uint32_t layer = 0; layer < kJoinedLayers; ++layer)
      for (uint32_t i = 0; i < 3; ++i) {
        EXPECT_EQ(at.store.is_frozen(layers[layer][i][0]), layer != 1);
        EXPECT_EQ(at.store.is_resident(layers[layer][i][0]), layer == 1);
        EXPECT_TRUE(at.is_whole(layers[layer][i], layer, i)) << layer << " " << i;
      }
    const bool is_place_kept = fault == FaultKind::kNoSpace;
    EXPECT_EQ(at.spill.places->n_taken(), is_place_kept ? 6u : 9u);
    // What comes next is written, elsewhere where places are retired.
    at.spill.disk->advance(std::chrono::seconds(5));
    const auto next = at.freeze_chunk(3, 3);
    at.settle();
    EXPECT_EQ(at.store.counts().extents_written, 15u);
    at.evict_all();
    for (uint32_t layer = 0; layer < kJoinedLayers; ++layer)
      for (uint32_t i = 0; i < 3; ++i) EXPECT_TRUE(at.is_whole(next[layer][i], layer, 3 + i));
    for (const auto* chunk : {&layers, &next})
      for (const auto& runs : *chunk)
        for (const auto& run : runs) at.release(run);
    EXPECT_EQ(at.spill.places->n_taken(), is_place_kept ? 0u : 3u);
    const bool is_hung = fault == FaultKind::kHang || fault == FaultKind::kHangThenMove;
    EXPECT_EQ(at.store.transfers()->n_quarantined(), is_hung ? 3u : 0u);
  }
}

/// The disk is asked as often as where every extent is a request.
TEST(JoinedExtents, SixteenFailedRequestsEndTheWritingHoweverManyExtentsTheyWere) {
  for (const uint32_t n : {1u, 2u, 4u}) {
    SCOPED_TRACE(n);
    JoiningStore at({.disk = {.faults = {.write_error = 1}}});
    uint32_t chunk = 0;
    for (; chunk < 5; ++chunk) {
      at.freeze_chunk(chunk * n, n);
      at.settle();
    }
    EXPECT_EQ(at.spill.disk->n_submitted(), 15u);
    EXPECT_EQ(at.store.counts().write_failures, 15u * n);
    // One more for each layer was on its way when the sixteenth failed.
    for (; chunk < 7; ++chunk) {
      at.freeze_chunk(chunk * n, n);
      at.settle();
    }
    EXPECT_EQ(at.spill.disk->n_submitted(), 18u);
    EXPECT_EQ(at.store.counts().write_failures, 18u * n);
    EXPECT_EQ(at.spill.places->n_taken(), 18u * n);
    EXPECT_EQ(at.store.last_failure(), IoStatus::kDeviceError);
  }
}

TEST(JoinedExtents, AShortWriteIsResumed) {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    JoiningStore at({.disk = {.seed = seed, .faults = {.short_write = 1}}});
    const auto layers = at.freeze_chunk(0, 4);
    at.settle();
    EXPECT_EQ(at.spill.disk->injected(FaultKind::kShortWrite), kJoinedLayers);
    EXPECT_EQ(at.store.counts().extents_written, 4 * kJoinedLayers);
    at.evict_all();
    for (uint32_t layer = 0; layer < kJoinedLayers; ++layer)
      for (uint32_t i = 0; i < 4; ++i) EXPECT_TRUE(at.is_whole(layers[layer][i], layer, i));
  }
}

/// What was frozen before somebody stopped the wait is written; the rest is frozen later.
TEST(JoinedExtents, AStoppedRunIsWrittenAsFarAsItCame) {
  JoiningStore at({.n_frames = 1});
  const auto first = at.open_run(0, 0), second = at.open_run(0, 1);
  const std::array<Hash128, kExtentBlocks> chain{};
  const std::atomic<bool> stopped = true;
  at.store.set_cancel(&stopped);
  EXPECT_TRUE(at.store.freeze(0, 0, chain, first, 2));
  EXPECT_EQ(at.moved().requests, 0u);
  EXPECT_FALSE(at.store.freeze(0, kExtentPositions, chain, second, 1));
  at.store.begin_writes();
  EXPECT_EQ(at.moved().requests, 1u);
  EXPECT_FALSE(at.store.is_frozen(second[0]));
  EXPECT_EQ(at.spill.places->n_taken(), 1u);
  at.store.set_cancel(nullptr);
  EXPECT_TRUE(at.store.freeze(0, kExtentPositions, chain, second, 1));
  at.store.begin_writes();
  at.settle();
  EXPECT_EQ(at.store.counts().extents_written, 2u);
  EXPECT_EQ(at.store.counts().frames_refused, 0u);
}

/// On a disk of every fault: each extent is what it was, or lost by name where it was written.
TEST(JoinedExtents, EveryFaultOfADiskLeavesTheBytesOrSaysSo) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  uint64_t n_failed_extents = 0, n_failed_requests = 0;
  for (uint32_t round = 0; round < 60; ++round) {
    SimulatedDisk disk = testing::faulty_disk(random());
    disk.faults.write_error = 0.05;
    disk.faults.hang = 0.01;
    JoiningStore at({.disk = disk, .n_frames = 12});
    uint32_t n_extents = 0;
    std::vector<std::vector<JoiningStore::Run>> layers(kJoinedLayers);
    for (uint32_t chunk = 0; chunk < 4; ++chunk) {
      const auto n = static_cast<uint32_t>(1 + random() % 5);
      const auto more = at.freeze_chunk(n_extents, n);
      for (uint32_t layer = 0; layer < kJoinedLayers; ++layer)
        layers[layer].insert(layers[layer].end(), more[layer].begin(), more[layer].end());
      n_extents += n;
      if (random() % 2 == 0) at.settle();
    }
    at.settle();
    at.evict_all();
    for (uint32_t layer = 0; layer < kJoinedLayers; ++layer)
      for (uint32_t i = 0; i < n_extents; ++i) {
        const auto& run = layers[layer][i];
        const uint64_t n_lost = at.store.counts().lost_extents;
        if (at.store.transfers()->n_free() == 0) break;  // the disk hangs with all of them
        const bool is_whole = at.is_whole(run, layer, i);
        EXPECT_EQ(is_whole, at.store.counts().lost_extents == n_lost) << layer << " " << i;
        if (!at.store.is_frozen(run[0])) {
          EXPECT_TRUE(at.store.is_resident(run[0]));
        }
      }
    const StoreCounts& counts = at.store.counts();
    const uint64_t n_ended = counts.extents_written + counts.write_failures;
    EXPECT_LE(n_ended + counts.frames_refused, uint64_t{kJoinedLayers} * n_extents);
    EXPECT_LE(at.moved().failed_write_requests, counts.write_failures);
    n_failed_extents += counts.write_failures;
    n_failed_requests += at.moved().failed_write_requests;
  }
  EXPECT_GT(n_failed_requests, 0u);
  EXPECT_GT(n_failed_extents, n_failed_requests);
}

}  // namespace
}  // namespace strata::tiers
