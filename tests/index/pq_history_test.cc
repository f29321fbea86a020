// Forks, truncation, threads, files: whatever way a stream came to its keys, its bytes are the
// same.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <thread>
#include <utility>

#include "base/error.h"
#include "tests/index/pq_fixture.h"

namespace strata::index {
namespace {

using namespace testing;

constexpr uint32_t kHeadDim = 64;

const KernelTable& kernels() { return cpu_attn::choose_kernels(); }
KvLayout layout() { return f16_layout(kHeadDim); }

std::unique_ptr<Selector> make_pq(uint32_t n_streams, uint32_t n_blocks) {
  return SelectorSource(Method::kPq, {layout(), n_streams, n_blocks}, kernels()).make();
}

/// Bytes of a stream whose blocks are [0, split) of `first` and [split, end) of `second`.
std::vector<std::byte> built(const Keys& first, uint32_t split, const Keys& second, uint32_t end) {
  const auto selector = make_pq(1, end);
  observe_range(*selector, 0, first, 0, split);
  observe_range(*selector, 0, second, split, end);
  return stream_bytes(*selector, 0);
}

TEST(PqHistory, TruncationInASegmentThatIsKeptDropsWhatIsBeyond) {
  const uint32_t end = 2 * kSegmentBlocks - 4;
  Keys kept = clustered_keys(layout(), end, kernels(), 1);
  kept.key(12 * kBlockPositions)[5] = std::nanf("");
  kept.key((kSegmentBlocks + 14) * kBlockPositions)[5] = std::nanf("");
  kept.store();
  const Keys other = clustered_keys(layout(), end, kernels(), 2);
  for (const auto& [seen, cut] :
       std::vector<std::pair<uint32_t, uint32_t>>{{30, 0},
                                                  {30, 1},
                                                  {30, 8},
                                                  {30, 10},
                                                  {30, 29},
                                                  {end, kSegmentBlocks},
                                                  {end, kSegmentBlocks + 8},
                                                  {end, kSegmentBlocks + 13},
                                                  {end, kSegmentBlocks + 15}}) {
    const auto selector = make_pq(1, end);
    observe_range(*selector, 0, kept, 0, seen);
    selector->truncate(cut);
    observe_range(*selector, 0, other, cut, end);
    EXPECT_EQ(stream_bytes(*selector, 0), built(kept, cut, other, end)) << cut;
  }
}

TEST(PqHistory, TruncationInATrainedSegmentKeepsItsCodebook) {
  const uint32_t end = 2 * kSegmentBlocks + 8;
  const Keys kept = clustered_keys(layout(), end, kernels(), 3);
  const Keys other = clustered_keys(layout(), end, kernels(), 4);
  const auto selector = make_pq(1, end);
  observe_range(*selector, 0, kept, 0, end);
  const auto want = stream_bytes(*selector, 0);
  // The codes stay, and what comes again gets the same.
  for (const uint32_t cut : {3u, 8u, kSegmentBlocks + 12, 2 * kSegmentBlocks}) {
    selector->truncate(cut);
    EXPECT_EQ(selector->n_codebooks(0), (cut + kSegmentBlocks - 1) / kSegmentBlocks);
    observe_range(*selector, 0, kept, cut, end);
    EXPECT_EQ(stream_bytes(*selector, 0), want) << cut;
  }
  // Other keys get it too, and the next segment its own.
  selector->truncate(3);
  observe_range(*selector, 0, other, 3, end);
  EXPECT_EQ(selector->n_codebooks(0), 2u);
  // To the beginning nothing stays.
  selector->truncate(0);
  EXPECT_EQ(selector->n_codebooks(0), 0u);
  observe_range(*selector, 0, other, 0, end);
  EXPECT_EQ(stream_bytes(*selector, 0), built(other, end, other, end));
}

/// Keys whose kind changes at change_block.
Keys changing_keys(uint32_t n_blocks, uint32_t change_block, uint64_t seed) {
  std::mt19937_64 random(seed);
  Keys keys(layout(), n_blocks, kernels());
  ClusteredKeys(kHeadDim, random).draw(keys, 0, change_block, random);
  ClusteredKeys(kHeadDim, random, 2.0f).draw(keys, change_block, n_blocks, random);
  keys.store();
  return keys;
}

TEST(PqHistory, ForksGoTheirOwnWays) {
  const uint32_t change = 32 * kExtentBlocks, end = 56 * kExtentBlocks;
  const Keys common = changing_keys(end, change, 6);
  const Keys other = changing_keys(end, change, 7);
  // In a segment, at its end, and in the second segment of a slot that is shared.
  for (const uint32_t at : {10u, 20u, kSegmentBlocks, kSegmentBlocks + 11, change + 12}) {
    const auto first = make_pq(1, 4 * end);
    observe_range(*first, 0, common, 0, at);
    const auto second = first->fork();
    observe_range(*second, 0, other, at, end);
    observe_range(*first, 0, common, at, end);
    EXPECT_EQ(stream_bytes(*first, 0), built(common, end, common, end)) << at;
    EXPECT_EQ(stream_bytes(*second, 0), built(common, at, other, end)) << at;
  }
}

TEST(PqHistory, ABlockSeenAgainChangesNothing) {
  const uint32_t end = kSegmentBlocks + 16;
  const Keys keys = clustered_keys(layout(), end, kernels(), 8);
  const auto selector = make_pq(1, end);
  observe_range(*selector, 0, keys, 0, 20);
  observe_range(*selector, 0, keys, 12, end);
  EXPECT_EQ(stream_bytes(*selector, 0), built(keys, end, keys, end));
}

TEST(PqHistory, StreamsDoNotDependOnThreadsOrOrder) {
  constexpr uint32_t kStreams = 6;
  const uint32_t end = kSegmentBlocks + 16;
  std::vector<Keys> keys;
  keys.reserve(kStreams);
  for (uint32_t s = 0; s < kStreams; ++s)
    keys.push_back(clustered_keys(layout(), end, kernels(), 20 + s));
  const auto together = make_pq(kStreams, end);
  together->open_blocks(end);
  {
    std::vector<std::jthread> threads;
    threads.reserve(3);
    for (uint32_t t = 0; t < 3; ++t)
      threads.emplace_back([&, t] {
        for (uint32_t s = t; s < kStreams; s += 3) observe_all(*together, s, keys[s]);
      });
  }
  const auto reversed = make_pq(kStreams, end);
  reversed->open_blocks(end);
  for (uint32_t s = kStreams; s > 0; --s) observe_all(*reversed, s - 1, keys[s - 1]);
  for (uint32_t s = 0; s < kStreams; ++s) {
    EXPECT_EQ(stream_bytes(*together, s), stream_bytes(*reversed, s)) << s;
    EXPECT_EQ(stream_bytes(*together, s), built(keys[s], end, keys[s], end)) << s;
  }
}

// ---- Files ----

std::vector<std::byte> segment_of(const Selector& from, uint32_t segment) {
  std::vector<std::byte> bytes(from.segment_bytes());
  from.copy_segment(0, segment, bytes);
  return bytes;
}

TEST(PqHistory, LoadedIsRebuilt) {
  const uint32_t change = 32 * kExtentBlocks, end = 64 * kExtentBlocks + 9;
  Keys keys = changing_keys(end, change, 9);
  keys.key(50 * kBlockPositions)[1] = std::nanf("");
  keys.key((change + 100) * kBlockPositions)[1] = std::nanf("");
  keys.store();
  const auto whole = make_pq(1, end);
  observe_range(*whole, 0, keys, 0, end);
  ASSERT_EQ(whole->n_segments(0), end / kSegmentBlocks);
  EXPECT_FALSE(whole->loads_in_any_order());  // a codebook begins with the one before
  std::mt19937_64 random(10);
  const auto q = drawn_queries(3, kHeadDim, random);
  for (const uint32_t n_segments : {0u, 1u, 2u, 8u, 9u, 15u, 16u}) {
    const auto loaded = make_pq(1, end);
    loaded->open_blocks(n_segments * kSegmentBlocks);
    for (uint32_t i = 0; i < n_segments; ++i) loaded->load_segment(0, i, segment_of(*whole, i));
    EXPECT_EQ(loaded->n_segments(0), n_segments);
    const auto truncated = whole->fork();
    truncated->truncate(n_segments * kSegmentBlocks);
    EXPECT_EQ(estimates(*loaded, 0, q, 3), estimates(*truncated, 0, q, 3)) << n_segments;
    observe_range(*loaded, 0, keys, n_segments * kSegmentBlocks, end);
    EXPECT_EQ(stream_bytes(*loaded, 0), stream_bytes(*whole, 0)) << n_segments;
    EXPECT_EQ(estimates(*loaded, 0, q, 3), estimates(*whole, 0, q, 3)) << n_segments;
    EXPECT_EQ(loaded->n_segments(0), whole->n_segments(0));
  }
}

/// Whatever happened to a stream before: what copy_segment() gives is what the keys alone give.
TEST(PqHistory, OnlySegmentsOfTheKeysThatAreThereAreSaved) {
  const uint32_t end = 4 * kSegmentBlocks;
  const Keys kept = clustered_keys(layout(), end, kernels(), 13);
  const Keys other = clustered_keys(layout(), end, kernels(), 14);
  const auto expect_rebuilt = [&](const Selector& selector, const Keys& first, uint32_t cut,
                                  uint32_t n_segments) {
    ASSERT_EQ(selector.n_segments(0), n_segments) << cut;
    const auto anew = make_pq(1, end);
    observe_range(*anew, 0, first, 0, cut);
    observe_range(*anew, 0, other, cut, end);
    for (uint32_t i = 0; i < n_segments; ++i)
      EXPECT_EQ(segment_of(selector, i), segment_of(*anew, i)) << cut << " " << i;
  };
  for (const uint32_t cut : {0u, 5u, kSegmentBlocks, kSegmentBlocks + 1, 3 * kSegmentBlocks - 1}) {
    const auto selector = make_pq(1, end);
    observe_range(*selector, 0, kept, 0, end);
    selector->truncate(cut);
    EXPECT_EQ(selector->n_segments(0), cut / kSegmentBlocks);
    observe_range(*selector, 0, other, cut, end);
    // From a cut inside a segment on, codebooks stand for keys that are gone.
    const bool is_inside = cut % kSegmentBlocks != 0;
    expect_rebuilt(*selector, kept, cut, is_inside ? cut / kSegmentBlocks : 4);
    // Cut before them, the next ones are of the text again; a fork knows as much.
    selector->truncate(cut / kSegmentBlocks * kSegmentBlocks);
    const auto fork = selector->fork();
    observe_range(*fork, 0, other, cut / kSegmentBlocks * kSegmentBlocks, end);
    expect_rebuilt(*fork, kept, cut / kSegmentBlocks * kSegmentBlocks, 4);
  }
}

TEST(PqHistory, HostileSegmentsAreRefusedAndChangeNothing) {
  const uint32_t end = 2 * kSegmentBlocks;
  const Keys keys = clustered_keys(layout(), end, kernels(), 12);
  const auto whole = make_pq(1, end);
  observe_range(*whole, 0, keys, 0, end);
  const auto selector = make_pq(1, end);
  selector->open_blocks(end);
  const auto is_refused = [&](std::span<const std::byte> bytes, uint32_t segment) {
    try {
      selector->load_segment(0, segment, bytes);
    } catch (const Error& error) {
      return error.code() == ErrorCode::kBadFile && selector->n_segments(0) == segment &&
             selector->n_codebooks(0) == segment;
    }
    return false;
  };
  const uint64_t codebook_bytes = whole->codebook_bytes();
  for (uint32_t segment = 0; segment < 2; ++segment) {
    const auto good = segment_of(*whole, segment);
    for (const size_t at : {size_t{0}, size_t{codebook_bytes - 4}})
      for (const float value : {std::nanf(""), -std::numeric_limits<float>::infinity(), 1e8f}) {
        auto bytes = good;
        std::memcpy(bytes.data() + at, &value, 4);
        EXPECT_TRUE(is_refused(bytes, segment)) << at << " " << value;
      }
    for (uint32_t extent = 0; extent < PqSelector::kSegmentExtents; ++extent) {
      const size_t tile = codebook_bytes + extent * PqSelector::tile_bytes();
      for (const size_t code : {size_t{0}, size_t{kPqTileBytes - 1}}) {
        auto bytes = good;
        bytes[tile + code] = std::byte{64};
        EXPECT_TRUE(is_refused(bytes, segment)) << extent << " " << code;
      }
      const auto with = [&](const std::function<void(PqTrailer&)>& change) {
        auto bytes = good;
        PqTrailer trailer = trailer_of(std::span(bytes).subspan(tile));
        change(trailer);
        std::memcpy(bytes.data() + tile + kPqTileBytes, &trailer, sizeof(trailer));
        return bytes;
      };
      EXPECT_TRUE(is_refused(with([](PqTrailer& t) { t.infinite = 256; }), segment));
      EXPECT_TRUE(is_refused(with([](PqTrailer& t) { t.zeros[14] = 1; }), segment));
    }
    EXPECT_FALSE(is_refused(good, segment));
  }
  EXPECT_EQ(stream_bytes(*selector, 0), stream_bytes(*whole, 0));
}

}  // namespace
}  // namespace strata::index
