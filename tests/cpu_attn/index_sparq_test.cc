// tests/cpu_attn/index_sparq_test.cc - scores of keys by some of their dimensions, on every
// instruction set, against double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "tests/cpu_attn/index_fixture.h"
#include "tests/cpu_attn/rotated_scan.h"

namespace strata::cpu_attn {
namespace {

constexpr float kUntouched = -12345.0f;

/// Normal keys, and for each query some components in ascending order.
struct SparqScan {
  SparqScan(uint32_t dims, uint32_t tile_count, uint32_t query_count, Random& random)
      : head_dim(dims),
        n_tiles(tile_count),
        n_queries(query_count),
        n_components((dims + 3) / 4),
        tiles(tile_count, sparq_tile_bytes(dims)) {
    for (uint32_t t = 0; t < n_tiles; ++t) {
      const auto keys = normal_floats(random, uint64_t{head_dim} * kExtentPositions, 2.0f);
      for (uint32_t i = 0; i < keys.size(); ++i) put(t, i, f32_to_f16(keys[i]));
    }
    std::vector<uint32_t> all(head_dim);
    std::iota(all.begin(), all.end(), 0u);
    for (uint32_t query = 0; query < n_queries; ++query) {
      std::shuffle(all.begin(), all.end(), random);
      std::sort(all.begin(), all.begin() + n_components);
      components.insert(components.end(), all.begin(), all.begin() + n_components);
    }
    values = normal_floats(random, uint64_t{n_queries} * n_components,
                           1.0f / std::sqrt(static_cast<float>(n_components)));
  }

  /// Entry i of a tile.
  void put(uint32_t t, uint64_t i, uint16_t half) {
    std::memcpy(tiles.tile(t) + i * sizeof(half), &half, sizeof(half));
  }
  double key(uint32_t block, uint32_t i, uint32_t d) {
    uint16_t half;
    const uint64_t at = (uint64_t{d} * kBlockPositions + i) * kExtentBlocks + block % kExtentBlocks;
    std::memcpy(&half, tiles.tile(block / kExtentBlocks) + at * sizeof(half), sizeof(half));
    return f16_to_f32(half);
  }
  uint64_t stride() const { return uint64_t{n_tiles} * kExtentBlocks + 3; }
  std::vector<float> run(const KernelTable& table) const {
    std::vector<float> scores(n_queries * stride(), kUntouched);
    table.index.sparq_scan({tiles.pointers(), n_tiles, components.data(), values.data(),
                            n_components, n_queries, scores.data(), stride(), head_dim});
    return scores;
  }
  /// Tile by tile and query by query.
  std::vector<float> run_alone(const KernelTable& table) const {
    std::vector<float> scores(n_queries * stride(), kUntouched);
    for (uint32_t t = 0; t < n_tiles; ++t)
      for (uint64_t i = 0; i < n_queries; ++i)
        table.index.sparq_scan({tiles.pointers() + t, 1, components.data() + i * n_components,
                                values.data() + i * n_components, n_components, 1,
                                scores.data() + i * stride() + uint64_t{t} * kExtentBlocks, 0,
                                head_dim});
    return scores;
  }
  /// ln(sum exp) of a block's products, and the largest sum of terms there is.
  std::pair<double, double> wanted(uint32_t query, uint32_t block) {
    std::vector<double> scores(kBlockPositions);
    double magnitude = 0;
    for (uint32_t i = 0; i < kBlockPositions; ++i) {
      double size = 0;
      for (uint64_t c = query * n_components; c < (query + 1) * n_components; ++c) {
        const double term = double{values[c]} * key(block, i, components[c]);
        scores[i] += term;
        size += std::abs(term);
      }
      magnitude = std::max(magnitude, size);
    }
    const double top = *std::ranges::max_element(scores);
    double sum = 0;
    for (const double score : scores) sum += std::exp(score - top);
    return {top + std::log(sum), magnitude};
  }

  uint32_t head_dim, n_tiles, n_queries, n_components;
  Tiles tiles;
  std::vector<uint32_t> components;
  std::vector<float> values;
};

TEST(SparqScan, GivesTheWeightOfEveryBlockAndTheSameBitsOnEverySet) {
  Random random(kIndexSeed);
  for (const uint32_t head_dim : {1u, 8u, 40u, 64u, 80u, 128u, 256u})
    for (const uint32_t n_queries : {1u, 3u, 9u}) {
      SparqScan scan(head_dim, n_queries % 4, n_queries, random);
      const std::vector<float> scores = scan.run(index_tables()[0]);
      for (uint32_t i = 0; i < n_queries; ++i)
        for (uint32_t b = 0; b < scan.n_tiles * kExtentBlocks; ++b) {
          const auto [score, magnitude] = scan.wanted(i, b);
          // A product and a sum of each term are rounded, then a difference, a logarithm, a sum.
          ASSERT_NEAR(scores[i * scan.stride() + b], score,
                      kWeightTolerance + (2 * scan.n_components + 8) * kEps * (magnitude + 4))
              << b << " query " << i << " head_dim " << head_dim;
        }
      for (const KernelTable& table : index_tables()) {
        const std::string what = std::string(table.name) + " " + std::to_string(head_dim) + " " +
                                 std::to_string(n_queries);
        EXPECT_TRUE(same_bits(scan.run(table), scores)) << what;
        EXPECT_TRUE(same_bits(scan.run_alone(table), scores)) << what;
      }
    }
}

/// Any bytes may come from a file.
TEST(SparqScan, GivesNoNanWhateverTheBytes) {
  Random random(kIndexSeed);
  for (int round = 0; round < 20; ++round) {
    SparqScan scan(64, 2, 3, random);
    for (uint32_t t = 0; t < scan.n_tiles; ++t)
      for (uint64_t i = 0; i < uint64_t{64} * kExtentPositions; ++i)
        scan.put(t, i, static_cast<uint16_t>(random()));
    const std::vector<float> scores = scan.run(index_tables()[0]);
    for (const float score : scores) ASSERT_FALSE(std::isnan(score));
    for (const KernelTable& table : index_tables())
      EXPECT_TRUE(same_bits(scan.run(table), scores)) << table.name;
  }
}

/// A block is marked by entries that are no numbers.
TEST(SparqScan, ABlockOrAQueryThatIsNotFiniteWeighsInfinitely) {
  Random random(kIndexSeed);
  for (const float wild : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    SparqScan scan(64, 1, 2, random);
    for (uint64_t i = 5; i < uint64_t{64} * kExtentPositions; i += kExtentBlocks)
      scan.put(0, i, 0x7e00);
    std::fill_n(scan.values.begin() + scan.n_components, scan.n_components, wild);
    expect_infinite_weights(scan);
  }
}

TEST(SparqScan, RefusesComponentsThatAKeyDoesNotHave) {
  Random random(kIndexSeed);
  SparqScan scan(40, 1, 2, random);
  scan.components.back() = 40;
  for (const KernelTable& table : index_tables())
    EXPECT_DEATH(scan.run(table), "component 40 of head_dim=40") << table.name;
  scan.head_dim = 0;
  EXPECT_DEATH(scan.run(index_tables()[0]), "head_dim=0 n_components=10");
}

}  // namespace
}  // namespace strata::cpu_attn
