// What clusters of keys estimate, against the keys themselves.
#include "index/cluster_selector.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/cpu_attn/cluster_tile.h"
#include "tests/cpu_attn/rabitq_tile.h"
#include "tests/index/pq_fixture.h"

namespace strata::index {
namespace {

using namespace testing;
using strata::testing::ClusterReader;
using strata::testing::nearest_cluster;
using strata::testing::rabitq_rotated;

// Of ln(sum exp) as the kernels take it (cpu_attn/index_pq_weight.inc).
constexpr double kByBitsOfFloats = 0.0602;

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

/// ln(sum exp) of a block's scores, and how far an estimate may be from it: ln(sum exp) moves no
/// further than the score that moves furthest. A score moves by q . (k - centroid) and by the
/// rounding of the rotated query, half a step per value.
struct Wanted {
  double score = 0;
  double bound = 0;
  bool is_close = false;  // a key may belong to either of two clusters
};

Wanted wanted(const Selector& selector, Keys& keys, uint32_t block, const float* q,
              uint32_t head_dim) {
  const ClusterReader reader(selector.rows(0, block / kExtentBlocks).data(), head_dim);
  const auto query = rabitq_rotated(q, head_dim);
  double step = 0;
  for (const double x : query) step = std::max(step, std::abs(x) / 127);
  double sum = 0, top = -std::numeric_limits<double>::infinity(), moved = 0;
  bool is_close = false;
  for (uint32_t i = 0; i < kBlockPositions; ++i) {
    const double score = keys.score(q, block * kBlockPositions + i);
    const double now = std::max(top, score);
    sum = sum * std::exp(top - now) + std::exp(score - now);
    top = now;
    const auto nearest =
        nearest_cluster(reader, block % kExtentBlocks,
                        rabitq_rotated(keys.key(block * kBlockPositions + i), head_dim));
    is_close = is_close || nearest.is_close;
    const auto centroid = reader.centroid(block % kExtentBlocks, nearest.cluster);
    double magnitude = 0;
    for (const double x : centroid) magnitude += std::abs(x);
    moved = std::max(moved, std::abs(score - product(query, centroid)) + magnitude * step * 0.51);
  }
  return {top + std::log(sum), moved + kByBitsOfFloats + 1e-4, is_close};
}

TEST(ClusterSelector, AWeightIsThatOfTheKeysWithinWhatTheirCentroidsErrBy) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  double worst = 0;
  for (const KernelTable* table : cpu_attn::available_kernels())
    for (const KvCodec codec : {KvCodec::kF16, KvCodec::kQ8_0})
      for (const uint32_t head_dim : {64u, 80u, 96u, 128u, 256u}) {
        if (codec == KvCodec::kQ8_0 && head_dim % 32 != 0) continue;
        SCOPED_TRACE(std::string(table->name) + " " + std::to_string(head_dim));
        const auto layout = KvLayout::make(codec, codec, head_dim);
        const auto n_blocks = static_cast<uint32_t>(17 + random() % 8);
        Keys keys = clustered_keys(layout, n_blocks, *table, random());
        const auto selector = make_cluster(layout, 1, n_blocks, *table);
        observe_range(*selector, 0, keys, 0, n_blocks);
        const auto n_queries = static_cast<uint32_t>(1 + random() % 8);
        const auto q = drawn_queries(n_queries, head_dim, random);
        const auto weights = estimates(*selector, 0, q, n_queries);
        for (const uint32_t query : {0u, n_queries - 1})
          for (uint32_t block = 0; block < n_blocks; block += 3) {
            const Wanted want =
                wanted(*selector, keys, block, q.data() + size_t{query} * head_dim, head_dim);
            if (want.is_close) continue;
            const double error =
                std::abs(double{weights[size_t{query} * n_blocks + block]} - want.score);
            ASSERT_LE(error, want.bound) << block;
            worst = std::max(worst, error / want.bound);
          }
        EXPECT_EQ(weights, estimates(*selector, 0, q, n_queries, 8));  // in pieces
      }
  EXPECT_GT(worst, 0.01);  // a bound that means something
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
  EXPECT_EQ(make_cluster(f16_layout(64), 1, 24)->estimate_bytes(17), 3 * cluster_tile_bytes(64));
}

}  // namespace
}  // namespace strata::index
