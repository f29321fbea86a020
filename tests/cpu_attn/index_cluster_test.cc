// tests/cpu_attn/index_cluster_test.cc - clusters of keys, on every instruction set: their
// centroids, the keys' numbers and the scan, against double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/host_memory.h"
#include "tests/cpu_attn/cluster_tile.h"
#include "tests/cpu_attn/index_fixture.h"
#include "tests/cpu_attn/rabitq_tile.h"

namespace strata::cpu_attn {
namespace {

using strata::testing::cluster_of;
using strata::testing::ClusterReader;
using strata::testing::rabitq_rotated;

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
        tiles(tile_count + 1, cluster_tile_bytes(dims)),
        scratch(HostMemory::reserve(query_count * kClusterNumbers * sizeof(float))) {
    std::uniform_real_distribution<float> uniform(0.2f, 1.0f);
    const auto size = std::sqrt(static_cast<float>(head_dim));
    for (uint32_t t = 0; t <= n_tiles; ++t) {
      const uint64_t base = cluster_base_offset(head_dim);
      for (uint64_t i = 0; i < cluster_steps_offset(head_dim); ++i)
        tiles.tile(t)[i] = static_cast<std::byte>(i < base              ? random()
                                                  : i < base + head_dim ? random() % 128
                                                                        : 0);
      ClusterSteps steps{};
      for (float& x : steps.centroid) x = uniform(random) / 50 / size;
      steps.base = uniform(random) / 40 / size;
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

  /// Tiles [1, n_tiles], tile 0 being the one before them.
  std::vector<float> run(const KernelTable& table) const {
    std::vector<float> scores(n_queries * stride(), kUntouched);
    scan(table, 0, n_tiles, 0, n_queries, scores.data());
    return scores;
  }
  /// Tile by tile and query by query.
  std::vector<float> run_alone(const KernelTable& table) const {
    std::vector<float> scores(n_queries * stride(), kUntouched);
    for (uint32_t t = 0; t < n_tiles; ++t)
      for (uint32_t i = 0; i < n_queries; ++i)
        scan(table, t, 1, i, 1, scores.data() + i * stride() + uint64_t{t} * kExtentBlocks);
    return scores;
  }
  void scan(const KernelTable& table, uint32_t first, uint32_t count, uint32_t first_query,
            uint32_t query_count, float* scores) const {
    table.index.cluster_scan({tiles.pointers() + first + 1, count, tiles.pointers()[first],
                              head_dim, codes.data() + uint64_t{first_query} * n_codes,
                              scales.data() + first_query, sums.data() + first_query, query_count,
                              reinterpret_cast<float*>(scratch.data()), scores, stride()});
  }

  /// ln(sum exp) of a block's products with the decoded query, and the largest product there is.
  std::pair<double, double> wanted(uint32_t query, uint32_t block) {
    const uint32_t t = block / kExtentBlocks;
    double sum = 0, top = -std::numeric_limits<double>::infinity(), magnitude = 0;
    for (uint32_t i = 0; i < kBlockPositions; ++i) {
      const auto key =
          cluster_of(tiles.tile(t), tiles.tile(t + 1), head_dim, block % kExtentBlocks, i);
      double score = 0, size = 0;
      for (uint32_t d = 0; d < head_dim; ++d) {
        const double term = double{scales[query]} * codes[uint64_t{query} * n_codes + d] * key[d];
        score += term;
        size += std::abs(term);
      }
      const double now = std::max(top, score);
      sum = sum * std::exp(top - now) + std::exp(score - now);
      top = now;
      magnitude = std::max(magnitude, size);
    }
    return {top + std::log(sum), magnitude};
  }

  uint32_t head_dim, n_tiles, n_queries, n_codes;
  Tiles tiles;
  HostMemory scratch;
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
  for (uint32_t t = 0; t < 2; ++t) {
    std::fill_n(scan.tiles.tile(t), cluster_base_offset(1024), std::byte{255});
    std::fill_n(scan.tiles.tile(t) + cluster_base_offset(1024), 1024, std::byte{127});
  }
  for (const int8_t code : {int8_t{127}, int8_t{-127}}) {
    std::fill(scan.codes.begin(), scan.codes.end(), code);
    scan.sums[0] = 1024 * code;
    for (const KernelTable& table : index_tables()) {
      const std::vector<float> scores = scan.run(table);
      for (uint32_t b = 0; b < kExtentBlocks; ++b) {
        const auto [score, magnitude] = scan.wanted(0, b);
        EXPECT_NEAR(scores[b], score, 1e-5 + 20 * kEps * magnitude) << table.name;
      }
    }
  }
}

/// Any bytes may come from a file.
TEST(ClusterScan, GivesNoNanWhateverTheBytes) {
  Random random(kIndexSeed);
  for (int round = 0; round < 50; ++round) {
    ClusterScan scan(64, 2, 3, random);
    for (uint32_t t = 0; t < 3; ++t)
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
  ClusterSteps steps = ClusterReader(scan.tiles.tile(1), 64).steps();
  steps.infinite = 1u << 5;
  scan.put(1, steps);
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

/// Two extents of keys of some kinds, near each other within a kind.
struct Encoded {
  Encoded(uint32_t dims, Random& random) : head_dim(dims), keys(16) {
    const auto kinds = normal_floats(random, uint64_t{kKinds} * head_dim, 2.0f);
    const auto bias = normal_floats(random, head_dim, 8.0f);
    for (auto& block : keys) {
      block = normal_floats(random, uint64_t{head_dim} * kBlockPositions, 0.3f);
      for (uint32_t i = 0; i < kBlockPositions; ++i) {
        const uint64_t kind = random() % kKinds;
        for (uint32_t d = 0; d < head_dim; ++d)
          block[d * kBlockPositions + i] += bias[d] + kinds[kind * head_dim + d];
      }
    }
  }
  /// The two tiles after these blocks of both.
  std::vector<std::byte> encode(const KernelTable& table, uint32_t end = 16) const {
    const uint64_t key_bytes = uint64_t{head_dim} * kBlockPositions * sizeof(float);
    const uint64_t tile_bytes = cluster_tile_bytes(head_dim);
    const HostMemory memory = HostMemory::reserve(2 * tile_bytes + key_bytes + 64);
    auto* copy = reinterpret_cast<float*>(memory.data());
    std::byte* tiles = memory.data() + key_bytes;
    std::memset(tiles, 0, 2 * tile_bytes);
    for (uint32_t b = 0; b < end; ++b) {
      std::copy(keys[b].begin(), keys[b].end(), copy);
      table.index.cluster_encode(
          {copy, head_dim, b % 8, b < 8 ? nullptr : tiles, tiles + b / 8 * tile_bytes});
    }
    return {tiles, tiles + 2 * tile_bytes};
  }
  std::vector<double> rotated(uint32_t block, uint32_t i) const {
    std::vector<float> key(head_dim);
    for (uint32_t d = 0; d < head_dim; ++d) key[d] = keys[block][d * kBlockPositions + i];
    return rabitq_rotated(key.data(), head_dim);
  }

  static constexpr uint64_t kKinds = 24;
  uint32_t head_dim;
  std::vector<std::vector<float>> keys;
};

double square_of_gap(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t d = 0; d < a.size(); ++d) sum += (a[d] - b[d]) * (a[d] - b[d]);
  return sum;
}

/// The two tiles of an Encoded, taken apart.
struct Clusters {
  Clusters(const std::vector<std::byte>& bytes, uint32_t dims) : head_dim(dims) {
    for (uint32_t t = 0; t < 2; ++t) {
      tiles[t] = bytes.data() + t * cluster_tile_bytes(dims);
      readers.emplace_back(tiles[t], dims);
    }
  }
  uint32_t number(uint32_t block, uint32_t i) const {
    return readers[block / 8].number(block % 8, i);
  }
  std::vector<double> of(uint32_t block, uint32_t i) const {
    return cluster_of(block < 8 ? nullptr : tiles[0], tiles[block / 8], head_dim, block % 8, i);
  }
  /// The squared distance to the nearest of the centroids that keys of the block may have.
  double nearest(uint32_t block, const std::vector<double>& key) const {
    double least = std::numeric_limits<double>::infinity();
    const auto meet = [&](uint32_t t, uint32_t n) {
      for (uint32_t c = 0; c < n; ++c)
        if (!readers[t].is_infinite(c / 4))
          least = std::min(least, square_of_gap(key, readers[t].centroid(c)));
    };
    if (block >= 8) meet(0, 32);
    meet(block / 8, (block % 8 + 1) * 4);
    return least;
  }

  uint32_t head_dim;
  const std::byte* tiles[2];
  std::vector<ClusterReader> readers;
};

TEST(ClusterEncode, EveryKeyHasTheNearestCentroidThereIsByThen) {
  Random random(kIndexSeed);
  for (const uint32_t head_dim : kHeadDims) {
    const Encoded encoded(head_dim, random);
    for (const KernelTable& table : index_tables()) {
      SCOPED_TRACE(std::string(table.name) + " head_dim " + std::to_string(head_dim));
      const auto bytes = encoded.encode(table);
      const Clusters clusters(bytes, head_dim);
      for (const uint32_t block : {0u, 1u, 7u, 8u, 13u})
        for (uint32_t i = 0; i < kBlockPositions; ++i) {
          // A number of a later block's centroid, or of another extent's, would be out of here.
          const uint32_t number = clusters.number(block, i);
          ASSERT_LT(number, 32 + (block % 8 + 1) * 4);
          if (block < 8) {
            ASSERT_GE(number, 32u);
          }
          const auto key = encoded.rotated(block, i);
          double square = 0;
          for (const double x : key) square += x * x;
          // k . c - |c|^2 / 2 is rounded, of values up to |k|^2.
          ASSERT_LE(square_of_gap(key, clusters.of(block, i)),
                    clusters.nearest(block, key) + 1e-5 * square)
              << block << " " << i;
        }
    }
  }
}

TEST(ClusterEncode, KindsOfKeysAreFoundAndFoundAgain) {
  Random random(kIndexSeed);
  const Encoded encoded(64, random);
  for (const KernelTable& table : index_tables()) {
    const auto bytes = encoded.encode(table);
    const Clusters clusters(bytes, 64);
    double error[2] = {}, spread = 0;
    uint32_t n_of_before = 0;
    for (uint32_t block = 0; block < 16; ++block)
      for (uint32_t i = 0; i < kBlockPositions; ++i) {
        const auto key = encoded.rotated(block, i);
        error[block / 8] += square_of_gap(key, clusters.of(block, i)) / 256;
        spread += square_of_gap(key, encoded.rotated((block + 5) % 16, i)) / 512 / 2;
        if (block >= 8 && clusters.number(block, i) < 32) ++n_of_before;
      }
    printf("%s: errors %.1f and %.1f of %.1f, %u of 256 keys take a centroid of before\n",
           table.name, error[0], error[1], spread, n_of_before);
    // Within a kind 64 * 0.09 = 5.8, around all of them 64 * 4.09 less what kinds agree in; 24 kinds
    // do not fit into the four centroids of the first block, but into the first extent's.
    EXPECT_LT(error[0], 0.5 * spread);
    EXPECT_LT(error[1], 2 * 64 * 0.09);
    EXPECT_GT(n_of_before, 128u);
  }
}

/// Such keys can hold most of a query's weight.
TEST(ClusterEncode, AKeyThatIsLikeNoOtherGetsACentroidOfItsOwn) {
  Random random(kIndexSeed);
  Encoded encoded(64, random);
  const auto far = normal_floats(random, 64, 9.0f);
  for (uint32_t d = 0; d < 64; ++d) encoded.keys[11][d * kBlockPositions + 17] = far[d];
  for (const KernelTable& table : index_tables()) {
    const auto bytes = encoded.encode(table);
    const Clusters clusters(bytes, 64);
    const uint32_t number = clusters.number(11, 17);
    EXPECT_GE(number, 32 + 3 * 4u) << table.name;
    for (uint32_t i = 0; i < kBlockPositions; ++i)
      EXPECT_EQ(clusters.number(11, i) == number, i == 17) << table.name;
    // The grid of four bits for normal values loses 1.2 % of the square around the base.
    EXPECT_LT(square_of_gap(encoded.rotated(11, 17), clusters.of(11, 17)), 0.03 * 64 * 150)
        << table.name;
  }
}

/// What a key is numbered by must not hang on how a context was cut into steps.
TEST(ClusterEncode, ABlockChangesNothingOfTheBlocksBefore) {
  Random random(kIndexSeed);
  const Encoded encoded(80, random);
  for (const KernelTable& table : index_tables()) {
    const auto all = encoded.encode(table);
    for (const uint32_t end : {1u, 5u, 8u, 9u, 14u}) {
      const auto part = encoded.encode(table, end);
      const Clusters of_all(all, 80), of_part(part, 80);
      for (uint32_t block = 0; block < end; ++block)
        for (uint32_t i = 0; i < kBlockPositions; ++i)
          ASSERT_EQ(of_all.of(block, i), of_part.of(block, i)) << table.name << end << block;
    }
  }
}

TEST(ClusterEncode, KeysThatAreAllAlikeOrZeroAreTheirCentroid) {
  Random random(kIndexSeed);
  for (const float value : {0.0f, 1e-20f, 1.0f, 8e6f}) {  // the last: the largest of q8_0
    Encoded encoded(64, random);
    for (auto& block : encoded.keys) std::fill(block.begin(), block.end(), value);
    for (const KernelTable& table : index_tables()) {
      const auto bytes = encoded.encode(table);
      const Clusters clusters(bytes, 64);
      const auto want = encoded.rotated(0, 0);
      double size = 0;
      for (const double x : want) size = std::max(size, std::abs(x));
      for (const uint32_t block : {0u, 3u, 9u})
        for (uint32_t d = 0; d < 64; ++d)
          ASSERT_NEAR(clusters.of(block, 5)[d], want[d], size / 63) << table.name << " " << value;
    }
  }
}

TEST(ClusterEncode, ABlockWithAKeyThatIsNotFiniteIsMarkedAndGivesNoCentroids) {
  Random random(kIndexSeed);
  for (const float wild : {std::nanf(""), kInfinity, -kInfinity})
    for (const uint32_t at : {0u, 63u * 32, 79u * 32 + 5})
      for (const uint32_t bad : {0u, 4u, 9u}) {
        Encoded encoded(80, random);
        encoded.keys[bad][at] = wild;
        for (const KernelTable& table : index_tables()) {
          const auto bytes = encoded.encode(table);
          const Clusters clusters(bytes, 80);
          for (uint32_t block = 0; block < 16; ++block) {
            EXPECT_EQ(clusters.readers[block / 8].is_infinite(block % 8), block == bad);
            if (block == bad) continue;
            for (uint32_t i = 0; i < kBlockPositions; ++i) {
              const uint32_t number = clusters.number(block, i);
              const uint32_t from = number < 32 ? number / 4 : block / 8 * 8 + (number - 32) / 4;
              ASSERT_NE(from, bad) << table.name << " " << block;
              for (const double x : clusters.of(block, i)) ASSERT_TRUE(std::isfinite(x));
            }
          }
        }
      }
}

}  // namespace
}  // namespace strata::cpu_attn
