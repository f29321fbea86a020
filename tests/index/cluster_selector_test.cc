// What clusters of keys estimate, against the keys themselves.
#include "index/cluster_selector.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/cpu_attn/cluster_tile.h"
#include "tests/cpu_attn/rabitq_tile.h"
#include "tests/index/rotated_fixture.h"

namespace strata::index {
namespace {

using namespace testing;
using strata::testing::ClusterReader;
using strata::testing::nearest_cluster;
using strata::testing::rabitq_rotated;

const KernelTable& kernels() { return cpu_attn::choose_kernels(); }

std::unique_ptr<Selector> make_cluster(const KvLayout& layout, uint32_t n_streams,
                                       uint32_t n_blocks, const KernelTable& table = kernels()) {
  return SelectorSource(Method::kCluster, {layout, n_streams, n_blocks}, table).make();
}

double product(std::span<const double> a, std::span<const double> b) {
  double sum = 0;
  for (size_t d = 0; d < a.size(); ++d) sum += a[d] * b[d];
  return sum;
}

Wanted wanted(const Selector& selector, Keys& keys, uint32_t block, const float* q,
              uint32_t head_dim) {
  const ClusterReader reader(selector.rows(0, block / kExtentBlocks).data(), head_dim);
  const auto query = rabitq_rotated(q, head_dim);
  const double step = query_step(query);
  LogSum sum;
  double moved = 0;
  bool is_close = false;  // a key may belong to either of two clusters
  for (uint32_t i = 0; i < kBlockPositions; ++i) {
    const double score = keys.score(q, block * kBlockPositions + i);
    sum.add(score);
    const auto nearest =
        nearest_cluster(reader, block % kExtentBlocks,
                        rabitq_rotated(keys.key(block * kBlockPositions + i), head_dim));
    is_close = is_close || nearest.is_close;
    const auto centroid = reader.centroid(block % kExtentBlocks, nearest.cluster);
    double magnitude = 0;
    for (const double x : centroid) magnitude += std::abs(x);
    moved = std::max(moved, std::abs(score - product(query, centroid)) + magnitude * step * 0.51);
  }
  return {sum.value(), moved + kByBitsOfFloats, is_close};
}

TEST(ClusterSelector, AWeightIsThatOfTheKeysWithinWhatTheirCentroidsErrBy) {
  expect_weights_within_bounds(Method::kCluster, 17, wanted);
}

TEST(ClusterSelector, EqualKeysHaveEqualScoresAndOutliersDoNotHideTheOthers) {
  expect_equal_keys_have_equal_scores(Method::kCluster, wanted);
}

TEST(ClusterSelector, BytesAreThoseOfTheTiles) {
  // 32 centroids of 4 bits per dimension, a base, and 192 bytes of steps and counts.
  EXPECT_EQ(cluster_tile_bytes(64), 32u * 32 + 64 + 192);  // 5 per key
  EXPECT_EQ(cluster_tile_bytes(80), 32u * 40 + 128 + 192);
  EXPECT_EQ(cluster_tile_bytes(128), 32u * 64 + 128 + 192);
  const IndexShape shape{f16_layout(64), 3, 24 * kExtentBlocks};
  EXPECT_EQ(index_bytes(Method::kCluster, shape), 3 * (tile_slots(shape.n_blocks) + 2) *
                                                      uint64_t{TileMemory::kSlotTiles} *
                                                      cluster_tile_bytes(64));
  EXPECT_EQ(make_cluster(f16_layout(64), 1, 24)->held_bytes(17), 3 * cluster_tile_bytes(64));
}

}  // namespace
}  // namespace strata::index
