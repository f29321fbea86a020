// tests/cpu_attn/rotated_scan.h - a scan of rotated keys under test: drawn queries over tiles that
// the method's own test fills, and what holds of every such scan.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "tests/cpu_attn/index_fixture.h"

namespace strata::cpu_attn {

class RotatedScan {
 public:
  using Kernel = void (*IndexKernels::*)(const RotatedScanArgs&);

  uint64_t stride() const { return uint64_t{n_tiles} * kExtentBlocks + kSpare; }

  std::vector<float> run(const KernelTable& table) const {
    std::vector<float> scores(n_queries * stride(), kUntouched);
    (table.index.*kernel_)({tiles.pointers(), n_tiles, head_dim, codes.data(), scales.data(),
                            sums.data(), n_queries, scores.data(), stride()});
    return scores;
  }
  /// Tile by tile and query by query.
  std::vector<float> run_alone(const KernelTable& table) const {
    std::vector<float> scores(n_queries * stride(), kUntouched);
    for (uint32_t t = 0; t < n_tiles; ++t)
      for (uint32_t i = 0; i < n_queries; ++i)
        (table.index.*kernel_)({tiles.pointers() + t, 1, head_dim,
                                codes.data() + uint64_t{i} * n_codes(), scales.data() + i,
                                sums.data() + i, 1,
                                scores.data() + i * stride() + uint64_t{t} * kExtentBlocks, 0});
    return scores;
  }

  uint32_t head_dim, n_tiles, n_queries;
  Tiles tiles;
  std::vector<int8_t> codes;  // [n_queries, n_codes()]
  std::vector<float> scales;
  std::vector<int32_t> sums;

 protected:
  RotatedScan(Kernel kernel, uint64_t tile_bytes, uint32_t dims, uint32_t tile_count,
              uint32_t query_count)
      : head_dim(dims),
        n_tiles(tile_count),
        n_queries(query_count),
        tiles(tile_count, tile_bytes),
        kernel_(kernel) {}

  uint32_t n_codes() const { return rabitq_groups(head_dim) * kRabitqGroup; }
  void draw_queries(Random& random, float scale) {
    std::uniform_real_distribution<float> uniform(0.2f * scale, scale);
    for (uint32_t i = 0; i < n_queries; ++i) {
      scales.push_back(uniform(random));
      sums.push_back(0);
      for (uint32_t d = 0; d < n_codes(); ++d) {
        codes.push_back(d < head_dim
                            ? static_cast<int8_t>(static_cast<int32_t>(random() % 255) - 127)
                            : int8_t{0});
        sums.back() += codes.back();
      }
    }
  }
  /// A value of a decoded query.
  double query_value(uint32_t query, uint32_t dim) const {
    return double{scales[query]} * codes[uint64_t{query} * n_codes() + dim];
  }

 private:
  static constexpr uint64_t kSpare = 3;  // floats between the rows of two queries: nobody's
  static constexpr float kUntouched = -12345.0f;
  Kernel kernel_;
};

/// Every block's weight is what Scan::wanted() says, to the same bits on every set, however the
/// work is cut.
template <class Scan>
void expect_weights_and_same_bits() {
  Random random(kIndexSeed);
  for (const uint32_t head_dim : {8u, 40u, 64u, 80u, 96u, 128u, 256u})
    for (uint32_t n_queries = 1; n_queries <= 9; ++n_queries) {
      const uint32_t n_tiles = n_queries % 3 + 1;
      Scan scan(head_dim, n_tiles, n_queries, random);
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

/// With the largest codes of queries there are, over tiles of head_dim 1024 that hold the largest
/// codes of keys.
template <class Scan>
void expect_no_overflow(Scan& scan, double tolerance) {
  for (const int8_t code : {int8_t{127}, int8_t{-127}}) {
    std::fill(scan.codes.begin(), scan.codes.end(), code);
    scan.sums[0] = 1024 * code;
    for (const KernelTable& table : index_tables()) {
      const std::vector<float> scores = scan.run(table);
      for (uint32_t b = 0; b < kExtentBlocks; ++b) {
        const auto [score, magnitude] = scan.wanted(0, b);
        EXPECT_NEAR(scores[b], score, tolerance + 20 * kEps * magnitude) << table.name;
      }
    }
  }
}

/// Any bytes may come from a file.
template <class Scan>
void expect_no_nan_whatever_the_bytes(uint64_t tile_bytes) {
  Random random(kIndexSeed);
  for (int round = 0; round < 50; ++round) {
    Scan scan(64, 2, 3, random);
    for (uint32_t t = 0; t < 2; ++t)
      for (uint64_t i = 0; i < tile_bytes; ++i)
        scan.tiles.tile(t)[i] = static_cast<std::byte>(random());
    const std::vector<float> scores = scan.run(index_tables()[0]);
    for (const float score : scores) ASSERT_FALSE(std::isnan(score));
    for (const KernelTable& table : index_tables())
      EXPECT_TRUE(same_bits(scan.run(table), scores)) << table.name;
  }
}

/// Block 5 of one tile and the second of two queries weigh infinitely, nothing else does.
template <class Scan>
void expect_infinite_weights(const Scan& scan) {
  for (const KernelTable& table : index_tables()) {
    const std::vector<float> scores = scan.run(table);
    for (uint32_t b = 0; b < kExtentBlocks; ++b) {
      EXPECT_EQ(std::isinf(scores[b]), b == 5) << table.name;
      EXPECT_EQ(scores[scan.stride() + b], std::numeric_limits<float>::infinity());
    }
  }
}

}  // namespace strata::cpu_attn
