// tests/cpu_attn/index_cluster_test.cc - clusters of keys, on every instruction set: their
// centroids, how many keys each has and the scan, against double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "base/host_memory.h"
#include "tests/cpu_attn/cluster_tile.h"
#include "tests/cpu_attn/index_fixture.h"
#include "tests/cpu_attn/rabitq_tile.h"

namespace strata::cpu_attn {
namespace {

using strata::testing::ClusterReader;
using strata::testing::nearest_cluster;
using strata::testing::rabitq_rotated;
using strata::testing::square_of_gap;

const std::vector<uint32_t> kHeadDims{8, 40, 64, 80, 96, 128, 256};
constexpr uint64_t kSpare = 3;  // floats between the rows of two queries, which nobody may write
const float kUntouched = -12345.0f;
const float kInfinity = std::numeric_limits<float>::infinity();
/// Of ln(sum exp) by the bits of floats (cpu_attn/index_pq_weight.inc).
constexpr double kWeightTolerance = 0.0602;

// ---- The scan ----

struct ClusterScan {
  ClusterScan(uint32_t dims, uint32_t tile_count, uint32_t query_count, Random& random)
      : head_dim(dims),
        n_tiles(tile_count),
        n_queries(query_count),
        n_codes(rabitq_groups(dims) * kRabitqGroup),
        tiles(tile_count, cluster_tile_bytes(dims)) {
    std::uniform_real_distribution<float> uniform(0.2f, 1.0f);
    const auto size = std::sqrt(static_cast<float>(head_dim));
    for (uint32_t t = 0; t < n_tiles; ++t) {
      const uint64_t base = cluster_base_offset(head_dim);
      for (uint64_t i = 0; i < cluster_steps_offset(head_dim); ++i)
        tiles.tile(t)[i] = static_cast<std::byte>(i < base              ? random()
                                                  : i < base + head_dim ? random() % 128
                                                                        : 0);
      ClusterSteps steps{};
      for (float& x : steps.centroid) x = uniform(random) / 50 / size;
      steps.base = uniform(random) / 40 / size;
      for (uint8_t& x : steps.counts) x = static_cast<uint8_t>(random() % 33);
      put(t, steps);
    }
    for (uint32_t i = 0; i < n_queries; ++i) {
      scales.push_back(uniform(random) / 10);
      sums.push_back(0);
      for (uint32_t d = 0; d < n_codes; ++d) {
        codes.push_back(d < head_dim
                            ? static_cast<int8_t>(static_cast<int32_t>(random() % 255) - 127)
                            : int8_t{0});
        sums.back() += codes.back();
      }
    }
  }

  void put(uint32_t t, const ClusterSteps& steps) {
    std::memcpy(tiles.tile(t) + cluster_steps_offset(head_dim), &steps, sizeof(steps));
  }
  uint64_t stride() const { return uint64_t{n_tiles} * kExtentBlocks + kSpare; }

  std::vector<float> run(const KernelTable& table) const {
    std::vector<float> scores(n_queries * stride(), kUntouched);
    table.index.cluster_scan({tiles.pointers(), n_tiles, head_dim, codes.data(), scales.data(),
                              sums.data(), n_queries, scores.data(), stride()});
    return scores;
  }
  /// Tile by tile and query by query.
  std::vector<float> run_alone(const KernelTable& table) const {
    std::vector<float> scores(n_queries * stride(), kUntouched);
    for (uint32_t t = 0; t < n_tiles; ++t)
      for (uint32_t i = 0; i < n_queries; ++i)
        table.index.cluster_scan({tiles.pointers() + t, 1, head_dim,
                                  codes.data() + uint64_t{i} * n_codes, scales.data() + i,
                                  sums.data() + i, 1,
                                  scores.data() + i * stride() + uint64_t{t} * kExtentBlocks, 0});
    return scores;
  }

  /// ln(sum of count * exp) of a block's products with the decoded query, from the largest product
  /// on, also of a cluster without keys; and the largest sum of terms there is.
  std::pair<double, double> wanted(uint32_t query, uint32_t block) {
    const ClusterReader reader(tiles.tile(block / kExtentBlocks), head_dim);
    std::vector<double> scores;
    double magnitude = 0;
    for (uint32_t c = 0; c < kBlockClusters; ++c) {
      const auto centroid = reader.centroid(block % kExtentBlocks, c);
      double size = 0;
      scores.push_back(0);
      for (uint32_t d = 0; d < head_dim; ++d) {
        const double term =
            double{scales[query]} * codes[uint64_t{query} * n_codes + d] * centroid[d];
        scores.back() += term;
        size += std::abs(term);
      }
      magnitude = std::max(magnitude, size);
    }
    const double top = *std::ranges::max_element(scores);
    double sum = 0;
    for (uint32_t c = 0; c < kBlockClusters; ++c)
      sum += reader.count(block % kExtentBlocks, c) * std::exp(scores[c] - top);
    return {top + std::log(sum), magnitude};
  }

  uint32_t head_dim, n_tiles, n_queries, n_codes;
  Tiles tiles;
  std::vector<int8_t> codes;
  std::vector<float> scales;
  std::vector<int32_t> sums;
};

TEST(ClusterScan, GivesTheWeightOfEveryBlockAndTheSameBitsOnEverySet) {
  Random random(kIndexSeed);
  for (const uint32_t head_dim : kHeadDims)
    for (const uint32_t n_queries : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 9u}) {
      const uint32_t n_tiles = n_queries % 3 + 1;
      ClusterScan scan(head_dim, n_tiles, n_queries, random);
      const std::vector<float> scores = scan.run(index_tables()[0]);
      for (const uint32_t i : {0u, n_queries - 1})
        for (uint32_t b = 0; b < n_tiles * kExtentBlocks; ++b) {
          const auto [score, magnitude] = scan.wanted(i, b);
          // Sums are exact; a value, two steps, a sum and a scale round, of at most 4 magnitudes.
          ASSERT_NEAR(scores[i * scan.stride() + b], score,
                      kWeightTolerance + 20 * kEps * magnitude)
              << b << " query " << i << " head_dim " << head_dim << " seed " << kIndexSeed;
        }
      for (const KernelTable& table : index_tables()) {
        const std::string what = std::string(table.name) + " " + std::to_string(head_dim) + " " +
                                 std::to_string(n_queries);
        EXPECT_TRUE(same_bits(scan.run(table), scores)) << what;
        EXPECT_TRUE(same_bits(scan.run_alone(table), scores)) << what;
      }
    }
}

TEST(ClusterScan, HoldsTheLargestSumsThereAre) {
  Random random(kIndexSeed);
  ClusterScan scan(1024, 1, 1, random);
  std::fill_n(scan.tiles.tile(0), cluster_base_offset(1024), std::byte{255});
  std::fill_n(scan.tiles.tile(0) + cluster_base_offset(1024), 1024, std::byte{127});
  for (const int8_t code : {int8_t{127}, int8_t{-127}}) {
    std::fill(scan.codes.begin(), scan.codes.end(), code);
    scan.sums[0] = 1024 * code;
    for (const KernelTable& table : index_tables()) {
      const std::vector<float> scores = scan.run(table);
      for (uint32_t b = 0; b < kExtentBlocks; ++b) {
        const auto [score, magnitude] = scan.wanted(0, b);
        EXPECT_NEAR(scores[b], score, kWeightTolerance + 20 * kEps * magnitude) << table.name;
      }
    }
  }
}

/// Any bytes may come from a file.
TEST(ClusterScan, GivesNoNanWhateverTheBytes) {
  Random random(kIndexSeed);
  for (int round = 0; round < 50; ++round) {
    ClusterScan scan(64, 2, 3, random);
    for (uint32_t t = 0; t < 2; ++t)
      for (uint64_t i = 0; i < cluster_tile_bytes(64); ++i)
        scan.tiles.tile(t)[i] = static_cast<std::byte>(random());
    const std::vector<float> scores = scan.run(index_tables()[0]);
    for (const KernelTable& table : index_tables()) {
      EXPECT_TRUE(same_bits(scan.run(table), scores)) << table.name;
      for (const float score : scan.run(table)) ASSERT_FALSE(std::isnan(score)) << table.name;
    }
  }
}

TEST(ClusterScan, ABlockThatIsMarkedOrAQueryThatIsNotFiniteWeighsInfinitely) {
  Random random(kIndexSeed);
  ClusterScan scan(64, 1, 2, random);
  ClusterSteps steps = ClusterReader(scan.tiles.tile(0), 64).steps();
  steps.infinite = 1u << 5;
  scan.put(0, steps);
  scan.scales[1] = std::nanf("");
  for (const KernelTable& table : index_tables()) {
    const std::vector<float> scores = scan.run(table);
    for (uint32_t b = 0; b < kExtentBlocks; ++b) {
      EXPECT_EQ(std::isinf(scores[b]), b == 5) << table.name;
      EXPECT_EQ(scores[scan.stride() + b], kInfinity);
    }
  }
}

// ---- Clusters of keys ----

/// The keys of an extent, of some kinds, near each other within a kind.
struct Encoded {
  Encoded(uint32_t dims, uint64_t n_kinds, Random& random, float width = 0.3f)
      : head_dim(dims), keys(8) {
    const auto kinds = normal_floats(random, n_kinds * head_dim, 2.0f);
    const auto bias = normal_floats(random, head_dim, 8.0f);
    for (auto& block : keys) {
      block = normal_floats(random, uint64_t{head_dim} * kBlockPositions, width);
      for (uint32_t i = 0; i < kBlockPositions; ++i) {
        const uint64_t kind = random() % n_kinds;
        for (uint32_t d = 0; d < head_dim; ++d)
          block[d * kBlockPositions + i] += bias[d] + kinds[kind * head_dim + d];
      }
    }
  }
  /// The tile after blocks in this order; memory that no block writes holds zeros.
  std::vector<std::byte> encode(const KernelTable& table, const std::vector<uint32_t>& order = {
                                                              0, 1, 2, 3, 4, 5, 6, 7}) const {
    const uint64_t key_bytes = uint64_t{head_dim} * kBlockPositions * sizeof(float);
    const HostMemory memory = HostMemory::reserve(cluster_tile_bytes(head_dim) + key_bytes + 64);
    auto* copy = reinterpret_cast<float*>(memory.data());
    std::byte* tile = memory.data() + key_bytes;
    std::memset(tile, 0, cluster_tile_bytes(head_dim));
    for (const uint32_t b : order) {
      std::copy(keys[b].begin(), keys[b].end(), copy);
      table.index.cluster_encode({copy, head_dim, b, tile});
    }
    return {tile, tile + cluster_tile_bytes(head_dim)};
  }
  std::vector<double> rotated(uint32_t block, uint32_t i) const {
    std::vector<float> key(head_dim);
    for (uint32_t d = 0; d < head_dim; ++d) key[d] = keys[block][d * kBlockPositions + i];
    return rabitq_rotated(key.data(), head_dim);
  }

  uint32_t head_dim;
  std::vector<std::vector<float>> keys;
};

TEST(ClusterEncode, EveryKeyCountsForTheNearestCentroid) {
  Random random(kIndexSeed);
  for (const uint32_t head_dim : kHeadDims) {
    const Encoded encoded(head_dim, 24, random);
    for (const KernelTable& table : index_tables()) {
      SCOPED_TRACE(std::string(table.name) + " head_dim " + std::to_string(head_dim));
      const auto tile = encoded.encode(table);
      const ClusterReader reader(tile.data(), head_dim);
      uint32_t n_close = 0;
      for (uint32_t block = 0; block < 8; ++block) {
        int counts[kBlockClusters] = {}, n_moved = 0;
        uint32_t n_close_here = 0;
        for (uint32_t i = 0; i < kBlockPositions; ++i) {
          const auto nearest = nearest_cluster(reader, block, encoded.rotated(block, i));
          ++counts[nearest.cluster];
          n_close_here += nearest.is_close ? 1 : 0;
        }
        int n_keys = 0;
        for (uint32_t c = 0; c < kBlockClusters; ++c) {
          const int count = static_cast<int>(reader.count(block, c));
          n_moved += std::abs(count - counts[c]);
          n_keys += count;
        }
        EXPECT_EQ(n_keys, 32);
        EXPECT_LE(n_moved, static_cast<int>(2 * n_close_here)) << block;
        n_close += n_close_here;
      }
      EXPECT_LT(n_close, 16u);  // of 256
      // A block writes its part and no other's.
      EXPECT_EQ(tile, encoded.encode(table, {0, 7, 2, 1, 4, 3, 5, 6, 2}));
    }
  }
}

TEST(ClusterEncode, FourKindsOfKeysBecomeFourClusters) {
  Random random(kIndexSeed);
  for (const uint32_t head_dim : {64u, 128u}) {
    const Encoded encoded(head_dim, 4, random);
    for (const KernelTable& table : index_tables()) {
      const auto tile = encoded.encode(table);
      const ClusterReader reader(tile.data(), head_dim);
      uint32_t n_found = 0;
      for (uint32_t block = 0; block < 8; ++block) {
        double error = 0;
        for (uint32_t i = 0; i < kBlockPositions; ++i)
          error += nearest_cluster(reader, block, encoded.rotated(block, i)).square;
        // Of each dimension 0.09 around its kind; the grid of four bits loses 1.2 % of the square
        // around the base, some 4 + 4 per dimension. A kind that is missed adds 1 or more.
        if (error / kBlockPositions / head_dim < 0.09 + 0.012 * 8) ++n_found;
      }
      EXPECT_GE(n_found, 6u) << table.name << " " << head_dim;  // of 8 blocks
    }
  }
}

/// Such keys can hold most of a query's weight. This one is farther from the mean than others, but
/// no larger part of all distances than a tenth, and none of the keys at their half.
TEST(ClusterEncode, AKeyThatIsLikeNoOtherIsAClusterOfItsOwn) {
  Random random(kIndexSeed);
  Encoded encoded(64, 24, random);
  const auto far = normal_floats(random, 64, 3.5f);
  for (uint32_t d = 0; d < 64; ++d) {
    float* row = encoded.keys[5].data() + d * kBlockPositions;
    row[3] = std::accumulate(row, row + kBlockPositions, 0.0f) / kBlockPositions + far[d];
  }
  for (const KernelTable& table : index_tables()) {
    const auto tile = encoded.encode(table);
    const ClusterReader reader(tile.data(), 64);
    const auto nearest = nearest_cluster(reader, 5, encoded.rotated(5, 3));
    EXPECT_EQ(reader.count(5, nearest.cluster), 1u) << table.name;
    // The grid's error of its square around the base, 3.5^2 and what the first block's mean is off.
    EXPECT_LT(nearest.square, 0.03 * 64 * 16) << table.name;
  }
}

/// Else it could score higher than every key of the block.
TEST(ClusterEncode, AClusterWithoutKeysIsACopyOfOneThatHasSome) {
  Random random(kIndexSeed);
  uint32_t n_lost = 0;
  for (int round = 0; round < 8; ++round) {
    // Codes tell no keys of a kind apart.
    const Encoded encoded(64, 2, random, 0.01f);
    for (const KernelTable& table : index_tables()) {
      const auto tile = encoded.encode(table);
      const ClusterReader reader(tile.data(), 64);
      for (uint32_t block = 0; block < 8; ++block)
        for (uint32_t c = 0; c < kBlockClusters; ++c) {
          if (reader.count(block, c) > 0) continue;
          ++n_lost;
          bool is_copy = false;
          for (uint32_t other = 0; other < kBlockClusters; ++other)
            is_copy = is_copy || (reader.count(block, other) > 0 &&
                                  reader.centroid(block, other) == reader.centroid(block, c));
          EXPECT_TRUE(is_copy) << table.name << " " << block << " " << c;
        }
    }
  }
  EXPECT_GT(n_lost, 0u);
}

TEST(ClusterEncode, KeysThatAreAllAlikeOrZeroAreTheirCentroid) {
  Random random(kIndexSeed);
  for (const float value : {0.0f, 1e-20f, 1.0f, 8e6f}) {  // the last: the largest of q8_0
    Encoded encoded(64, 24, random);
    for (auto& block : encoded.keys) std::fill(block.begin(), block.end(), value);
    for (const KernelTable& table : index_tables()) {
      const auto tile = encoded.encode(table);
      const ClusterReader reader(tile.data(), 64);
      const auto want = encoded.rotated(0, 0);
      double size = 0;
      for (const double x : want) size = std::max(size, std::abs(x));
      for (const uint32_t block : {0u, 3u})
        for (uint32_t c = 0; c < kBlockClusters; ++c)  // also those without keys
          for (uint32_t d = 0; d < 64; ++d)
            ASSERT_NEAR(reader.centroid(block, c)[d], want[d], size / 63)
                << table.name << " " << value << " " << c;
    }
  }
}

TEST(ClusterEncode, AKeyThatIsNotFiniteMarksItsBlock) {
  Random random(kIndexSeed);
  for (const float wild : {std::nanf(""), kInfinity, -kInfinity})
    for (const uint32_t at : {0u, 63u * 32, 79u * 32 + 5})
      for (const uint32_t bad : {0u, 4u}) {
        Encoded encoded(80, 24, random);
        encoded.keys[bad][at] = wild;
        for (const KernelTable& table : index_tables()) {
          const auto tile = encoded.encode(table);
          const ClusterReader reader(tile.data(), 80);
          for (uint32_t block = 0; block < 8; ++block) {
            EXPECT_EQ(reader.is_infinite(block), block == bad) << table.name;
            for (uint32_t c = 0; c < kBlockClusters; ++c)
              for (const double x : reader.centroid(block, c)) ASSERT_TRUE(std::isfinite(x));
          }
        }
      }
}

}  // namespace
}  // namespace strata::cpu_attn
