// What a query's largest components estimate, against the definition in double precision.
#include "index/sparq_selector.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/checked_math.h"
#include "tests/index/rotated_fixture.h"

namespace strata::index {
namespace {

using namespace testing;

const KernelTable& kernels() { return cpu_attn::choose_kernels(); }

std::unique_ptr<Selector> make_sparq(const KvLayout& layout, uint32_t n_streams,
                                     uint32_t n_blocks) {
  return SelectorSource(Method::kSparq, {layout, n_streams, n_blocks}, kernels()).make();
}

/// Dimensions by the size of q there, the earlier of equals first.
std::vector<uint32_t> by_size(const float* q, uint32_t head_dim) {
  std::vector<uint32_t> dims(head_dim);
  std::iota(dims.begin(), dims.end(), 0u);
  std::ranges::stable_sort(dims,
                           [q](uint32_t a, uint32_t b) { return std::abs(q[a]) > std::abs(q[b]); });
  return dims;
}

/// Steps 1 and 2 of the paper's algorithm; keys are rounded to f16.
Wanted wanted(const Selector&, Keys& keys, uint32_t block, const float* q, uint32_t head_dim) {
  auto dims = by_size(q, head_dim);
  double all = 0, kept = 0;
  for (const uint32_t d : dims) all += std::abs(double{q[d]});
  dims.resize(div_up(head_dim, 4));
  for (const uint32_t d : dims) kept += std::abs(double{q[d]});
  LogSum sum;
  double moved = 0;
  for (uint32_t i = 0; i < kBlockPositions; ++i) {
    double score = 0, magnitude = 0;
    for (const uint32_t d : dims) {
      const double term =
          double{q[d]} * std::sqrt(all / kept) * double{keys.key(block * kBlockPositions + i)[d]};
      score += term;
      magnitude += std::abs(term);
    }
    sum.add(score);
    moved = std::max(moved, magnitude * (0x1p-11 + (2.0 * head_dim + 8) * 0x1p-24));
  }
  return {sum.value(), moved + kByBitsOfFloats};
}

TEST(SparqSelector, AWeightIsThatOfTheKeysInTheQuerysLargestComponents) {
  expect_weights_within_bounds(Method::kSparq, 9, wanted);
}

/// Of equal ones the earlier: a choice that hangs on the order of a sort would be another's.
TEST(SparqSelector, OfEqualComponentsTheEarlierOnesAreRead) {
  Keys keys = clustered_keys(f16_layout(64), 9, kernels(), 4);
  const auto selector = make_sparq(f16_layout(64), 1, 9);
  observe_range(*selector, 0, keys, 0, 9);
  std::vector<float> q(64, 0.125f);
  for (uint32_t d = 0; d < 64; d += 2) q[d] = -0.125f;
  q[40] = 0.5f;
  const auto weights = estimates(*selector, 0, q, 1);
  for (uint32_t block = 0; block < 9; ++block) {
    const Wanted want = wanted(*selector, keys, block, q.data(), 64);
    EXPECT_NEAR(weights[block], want.score, want.bound) << block;
  }
}

TEST(SparqSelector, AQueryOfZerosWeighsEveryBlockByItsPositions) {
  Keys keys = clustered_keys(f16_layout(64), 9, kernels(), 8);
  const auto selector = make_sparq(f16_layout(64), 1, 9);
  observe_range(*selector, 0, keys, 0, 9);
  for (const float weight : estimates(*selector, 0, std::vector<float>(64), 1))
    EXPECT_NEAR(weight, std::log(32.0), kByBitsOfFloats);
}

/// Its size is infinite, so that no component is larger: those that are read may all be finite.
TEST(SparqSelector, AQueryWithAnInfinityWeighsEveryBlockInfinitely) {
  Keys keys = clustered_keys(f16_layout(64), 9, kernels(), 8);
  const auto selector = make_sparq(f16_layout(64), 1, 9);
  observe_range(*selector, 0, keys, 0, 9);
  std::vector<float> q(64, 0.125f);
  q[40] = std::numeric_limits<float>::infinity();
  for (const float weight : estimates(*selector, 0, q, 1))
    EXPECT_EQ(weight, std::numeric_limits<float>::infinity());
}

/// What q8_0 can hold and f16 cannot: such a block is attended.
TEST(SparqSelector, AKeyThatF16DoesNotHoldCountsAsOneThatIsNotFinite) {
  const auto layout = KvLayout::make(KvCodec::kQ8_0, KvCodec::kQ8_0, 64);
  Keys keys(layout, 9, kernels());
  std::mt19937_64 random(7);
  keys.draw(random);
  keys.key(6 * kBlockPositions + 9)[3] = 70000.0f;
  keys.store();
  const auto selector = make_sparq(layout, 1, 9);
  observe_range(*selector, 0, keys, 0, 9);
  // Also by queries that do not ask for that dimension.
  const auto weights = estimates(*selector, 0, drawn_queries(9, 64, random), 9);
  for (uint32_t i = 0; i < weights.size(); ++i) EXPECT_EQ(std::isinf(weights[i]), i % 9 == 6) << i;
}

TEST(SparqSelector, WhatIsReadIsWhatTheQueriesAskFor) {
  const KvLayout layout = f16_layout(64);
  const auto selector = make_sparq(layout, 1, 24);
  observe_range(*selector, 0, clustered_keys(layout, 24, kernels(), 5), 0, 24);
  // Every key in f16.
  EXPECT_EQ(selector->held_bytes(17), 3u * 256 * 64 * 2);
  const IndexShape shape{layout, 3, 24 * kExtentBlocks};
  EXPECT_EQ(index_bytes(Method::kSparq, shape),
            3 * (tile_slots(shape.n_blocks) + 2) * uint64_t{TileMemory::kSlotTiles} * 256 * 64 * 2);
  std::mt19937_64 random(6);
  for (const uint32_t n_queries : {1u, 3u, 8u}) {
    auto q = drawn_queries(n_queries, 64, random);
    std::vector<bool> is_read(64);
    for (uint32_t i = 0; i < n_queries; ++i) {
      const auto dims = by_size(q.data() + size_t{i} * 64, 64);
      for (uint32_t c = 0; c < 16; ++c) is_read[dims[c]] = true;
    }
    const auto n_read = static_cast<uint64_t>(std::ranges::count(is_read, true));
    EXPECT_EQ(selector->estimate_bytes(17, q.data(), n_queries), 3 * n_read * 512);
    EXPECT_LE(3.0 * static_cast<double>(n_read) * 512,
              scanned_bytes(Method::kSparq, layout, n_queries) * 3 * kExtentPositions);
    // The same query again asks for nothing more.
    q.insert(q.end(), q.begin(), q.begin() + 64);
    EXPECT_EQ(selector->estimate_bytes(17, q.data(), n_queries + 1), 3 * n_read * 512);
  }
  // Bytes a position: a quarter of the dimensions for each query, until all are read.
  EXPECT_EQ(scanned_bytes(Method::kSparq, layout, 1), 32);
  EXPECT_EQ(scanned_bytes(Method::kSparq, layout, 3), 96);
  EXPECT_EQ(scanned_bytes(Method::kSparq, layout, 8), 128);
  EXPECT_EQ(scanned_bytes(Method::kSparq, f16_layout(80), 1), 40);
}

}  // namespace
}  // namespace strata::index
