// Product quantisation of keys and queries that are out of the ordinary, and its sizes.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "tests/index/pq_fixture.h"

namespace strata::index {
namespace {

using namespace testing;

const KernelTable& kernels() { return cpu_attn::choose_kernels(); }
const double kLogPairs = std::log(16.0);  // of a block whose keys are equal
const float kInfinity = std::numeric_limits<float>::infinity();

std::unique_ptr<Selector> make_pq(const KvLayout& layout, uint32_t n_blocks) {
  return SelectorSource(Method::kPq, {layout, 1, n_blocks}, kernels()).make();
}

TEST(PqEdge, BlocksWithKeysThatAreNotFiniteWeighInfinitely) {
  const uint32_t n_blocks = kSegmentBlocks + 20;
  const std::vector<uint32_t> bad{0, 5, kSegmentBlocks + 3};
  for (const uint32_t n : {20u, n_blocks}) {  // in the sample and after
    Keys keys = clustered_keys(f16_layout(64), n_blocks, kernels(), 10);
    keys.key(3)[7] = std::nanf("");
    keys.key(5 * kBlockPositions)[0] = kInfinity;
    keys.key((kSegmentBlocks + 3) * kBlockPositions + 31)[63] = -kInfinity;
    keys.store();
    const auto selector = make_pq(f16_layout(64), n_blocks);
    observe_range(*selector, 0, keys, 0, n);
    std::mt19937_64 random(11);
    const auto weights = estimates(*selector, 0, drawn_queries(2, 64, random), 2);
    for (uint32_t i = 0; i < weights.size(); ++i) {
      if (std::ranges::count(bad, i % n) > 0)
        EXPECT_EQ(weights[i], kInfinity) << i;
      else
        EXPECT_TRUE(std::isfinite(weights[i])) << i;
    }
    selector->truncate(5);
    EXPECT_EQ(estimates(*selector, 0, drawn_queries(1, 64, random), 1)[0], kInfinity);
    // Block 5 comes again, with other keys.
    selector->open_blocks(6);
    selector->observe(0, 5, keys.block(6));
    EXPECT_TRUE(std::isfinite(estimates(*selector, 0, drawn_queries(1, 64, random), 1)[5]));
  }
}

TEST(PqEdge, ASegmentWithoutAFiniteBlockIsNoReasonToStop) {
  const uint32_t n_blocks = 2 * kSegmentBlocks;
  Keys keys = clustered_keys(f16_layout(64), n_blocks, kernels(), 12);
  for (uint32_t block = 0; block < kSegmentBlocks; ++block)
    keys.key(block * kBlockPositions + 4)[9] = std::nanf("");
  keys.store();
  const auto selector = make_pq(f16_layout(64), n_blocks);
  observe_range(*selector, 0, keys, 0, n_blocks);
  std::mt19937_64 random(13);
  const auto weights = estimates(*selector, 0, drawn_queries(1, 64, random), 1);
  for (uint32_t block = 0; block < n_blocks; ++block)
    EXPECT_EQ(std::isinf(weights[block]), block < kSegmentBlocks) << block;
  EXPECT_EQ(selector->n_codebooks(0), 2u) << "the first stands for nothing";
}

TEST(PqEdge, EqualKeysHaveEqualAndExactScores) {
  const uint32_t n_blocks = 40 * kExtentBlocks;
  Keys keys(f16_layout(64), n_blocks, kernels());
  std::mt19937_64 random(14);
  const auto key = drawn_queries(1, 64, random);
  for (uint32_t pos = 0; pos < n_blocks * kBlockPositions; ++pos)
    std::copy(key.begin(), key.end(), keys.key(pos));
  keys.store();
  const auto selector = make_pq(f16_layout(64), n_blocks - 1);
  observe_range(*selector, 0, keys, 0, n_blocks - 1);  // the last segment is kept
  const auto q = drawn_queries(1, 64, random);
  for (const float weight : estimates(*selector, 0, q, 1))
    ASSERT_NEAR(weight, keys.score(q.data(), 0) + kLogPairs, 1e-5);
}

TEST(PqEdge, QueriesOfAnySizeGiveNoNan) {
  const uint32_t n_blocks = kSegmentBlocks + 8;
  const Keys keys = clustered_keys(f16_layout(64), n_blocks, kernels(), 15);
  for (const uint32_t n : {8u, n_blocks}) {
    const auto selector = make_pq(f16_layout(64), n_blocks);
    observe_range(*selector, 0, keys, 0, n);
    for (const float value : {0.0f, 1e-38f, 1e30f, 3e38f, kInfinity, std::nanf("")}) {
      const std::vector<float> q(64, value);
      for (const float weight : estimates(*selector, 0, q, 1)) {
        ASSERT_FALSE(std::isnan(weight)) << value;
        if (value == 0) {
          ASSERT_NEAR(weight, kLogPairs, 1e-5);
        } else if (!std::isfinite(value)) {
          ASSERT_EQ(weight, kInfinity);
        }
      }
    }
  }
}

TEST(PqEdge, HeadsThatDoNotDivideAreRefused) {
  try {
    const SelectorSource source(Method::kPq, {f16_layout(72), 1, 8}, kernels());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("72"), std::string::npos) << error.what();
  }
}

TEST(PqEdge, IndexBytesCountKeptBlocksAndCodebooks) {
  const IndexShape shape{f16_layout(64), 3, 24 * kExtentBlocks};
  const uint64_t rows = (tile_slots(shape.n_blocks) + 2) * uint64_t{TileMemory::kSlotTiles} *
                        PqSelector::tile_bytes();
  const uint64_t kept = uint64_t{kSegmentBlocks} * kBlockPositions * 64 * 2;
  const uint64_t codebook = (64 * 64 + 16 * 64) * 4;
  const uint64_t n_codebooks = 24 / PqSelector::kSegmentExtents;
  EXPECT_EQ(index_bytes(Method::kPq, shape), 3 * (rows + kept + n_codebooks * codebook));
  const IndexShape small{f16_layout(64), 3, 2};
  EXPECT_EQ(index_bytes(Method::kPq, small),
            3 * (3 * uint64_t{TileMemory::kSlotTiles} * PqSelector::tile_bytes() + kept));
  // What a query reads: tiles and centroids of two segments, keys of 11 blocks.
  const auto selector = make_pq(f16_layout(64), 24 * kExtentBlocks);
  EXPECT_EQ(selector->held_bytes(2 * kSegmentBlocks + 11),
            2 * (PqSelector::kSegmentExtents * PqSelector::tile_bytes() + 64 * 64 * 4) +
                11 * kBlockPositions * 64 * 2);
}

}  // namespace
}  // namespace strata::index
