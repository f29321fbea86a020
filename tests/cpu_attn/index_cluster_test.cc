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
#include "tests/cpu_attn/rotated_scan.h"

namespace strata::cpu_attn {
namespace {

using strata::testing::ClusterReader;
using strata::testing::nearest_cluster;
using strata::testing::rabitq_rotated;
using strata::testing::square_of_gap;

const std::vector<uint32_t> kHeadDims{8, 40, 64, 80, 96, 128, 256};
const float kInfinity = std::numeric_limits<float>::infinity();
// ---- The scan ----

struct ClusterScan : RotatedScan {
  ClusterScan(uint32_t dims, uint32_t tile_count, uint32_t query_count, Random& random)
      : RotatedScan(&IndexKernels::cluster_scan, cluster_tile_bytes(dims), dims, tile_count,
                    query_count) {
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
    draw_queries(random, 0.1f);
  }

  void put(uint32_t t, const ClusterSteps& steps) {
    std::memcpy(tiles.tile(t) + cluster_steps_offset(head_dim), &steps, sizeof(steps));
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
        const double term = query_value(query, d) * centroid[d];
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
};

TEST(ClusterScan, GivesTheWeightOfEveryBlockAndTheSameBitsOnEverySet) {
  expect_weights_and_same_bits<ClusterScan>();
}

TEST(ClusterScan, HoldsTheLargestSumsThereAre) {
  Random random(kIndexSeed);
  ClusterScan scan(1024, 1, 1, random);
  std::fill_n(scan.tiles.tile(0), cluster_base_offset(1024), std::byte{255});
  std::fill_n(scan.tiles.tile(0) + cluster_base_offset(1024), 1024, std::byte{127});
  expect_no_overflow(scan, kWeightTolerance);
}

TEST(ClusterScan, GivesNoNanWhateverTheBytes) {
  expect_no_nan_whatever_the_bytes<ClusterScan>(cluster_tile_bytes(64));
}

TEST(ClusterScan, ABlockThatIsMarkedOrAQueryThatIsNotFiniteWeighsInfinitely) {
  Random random(kIndexSeed);
  ClusterScan scan(64, 1, 2, random);
  ClusterSteps steps = ClusterReader(scan.tiles.tile(0), 64).steps();
  steps.infinite = 1u << 5;
  scan.put(0, steps);
  scan.scales[1] = std::nanf("");
  expect_infinite_weights(scan);
}

/// A step that is no number may come from a file, and a maximum depends on which of its operands is
/// a NaN: of each block's clusters one alone has it.
TEST(ClusterScan, AStepThatIsNoNumberGivesTheSameBitsOnEverySet) {
  Random random(kIndexSeed);
  for (uint32_t cluster = 0; cluster < kBlockClusters; ++cluster)
    for (const uint32_t n_bad : {1u, kExtentBlocks}) {
      ClusterScan scan(64, 1, 3, random);
      ClusterSteps steps = ClusterReader(scan.tiles.tile(0), 64).steps();
      std::fill_n(steps.centroid + cluster * kExtentBlocks, n_bad, std::nanf(""));
      scan.put(0, steps);
      const std::vector<float> scores = scan.run(index_tables()[0]);
      for (uint32_t i = 0; i < scan.n_queries; ++i)
        for (uint32_t b = 0; b < kExtentBlocks; ++b)
          EXPECT_FALSE(std::isnan(scores[i * scan.stride() + b])) << cluster << " " << b;
      for (const KernelTable& table : index_tables()) {
        const std::string what = std::string(table.name) + " cluster " + std::to_string(cluster);
        EXPECT_TRUE(same_bits(scan.run(table), scores)) << what;
        EXPECT_TRUE(same_bits(scan.run_alone(table), scores)) << what;
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
