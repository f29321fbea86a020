// tests/cpu_attn/index_scan_test.cc - the two scans of an index, digest_scores and pq_scan, on
// every instruction set, against sums in double and in integers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "tests/cpu_attn/index_fixture.h"

namespace strata::cpu_attn {
namespace {

constexpr uint64_t kSpare = 3;  // floats between the rows of two queries, which nobody may write
const float kUntouched = -12345.0f;

const std::vector<uint32_t> kQueryCounts{1, 2, 3, 4, 5, 6, 7, 8, 9, 96};

// ---- Digests ----

struct DigestScan {
  DigestScan(uint32_t tile_count, uint32_t dims, uint32_t query_count, Random& random)
      : n_tiles(tile_count),
        n_dims(dims),
        n_queries(query_count),
        tiles(tile_count, digest_tile_bytes(dims)),
        q(normal_bf16(uint64_t{query_count} * dims, random)) {
    for (uint32_t t = 0; t < n_tiles; ++t) {
      const std::vector<uint16_t> values = normal_bf16(uint64_t{n_dims} * kTilePages, random);
      std::memcpy(tiles.tile(t), values.data(), values.size() * sizeof(uint16_t));
    }
  }

  uint16_t* entry(uint32_t page, uint32_t d) {
    return reinterpret_cast<uint16_t*>(tiles.tile(page / kTilePages)) +
           (uint64_t{d / 2} * kTilePages + page % kTilePages) * 2 + d % 2;
  }

  uint64_t stride() const { return uint64_t{n_tiles} * kExtentBlocks + kSpare; }

  std::vector<float> run(const KernelTable& table) const {
    std::vector<float> scores(n_queries * stride(), kUntouched);
    table.index.digest_scores(
        {tiles.pointers(), n_tiles, n_dims, q.data(), n_queries, scores.data(), stride()});
    return scores;
  }

  /// Tile by tile and query by query.
  std::vector<float> run_alone(const KernelTable& table) const {
    std::vector<float> scores(n_queries * stride(), kUntouched);
    for (uint32_t t = 0; t < n_tiles; ++t)
      for (uint32_t i = 0; i < n_queries; ++i)
        table.index.digest_scores({tiles.pointers() + t, 1, n_dims, q.data() + uint64_t{i} * n_dims,
                                   1, scores.data() + i * stride() + uint64_t{t} * kExtentBlocks,
                                   0});
    return scores;
  }

  uint32_t n_tiles, n_dims, n_queries;
  Tiles tiles;
  std::vector<uint16_t> q;
};

/// Rounding: one of each product and one of each sum along the chains, whose sums are added:
/// (2 n_dims + 1) eps sum |q d|. First order, 1 % for the rest.
void expect_digest_scores(DigestScan& scan, const std::vector<float>& scores,
                          const std::string& what) {
  for (uint32_t i = 0; i < scan.n_queries; ++i) {
    for (uint32_t b = 0; b < scan.n_tiles * kExtentBlocks; ++b) {
      double want = -std::numeric_limits<double>::infinity(), bound = 0;
      for (uint32_t page = b * kPagesPerBlock; page < (b + 1) * kPagesPerBlock; ++page) {
        double sum = 0, magnitude = 0;
        for (uint32_t d = 0; d < scan.n_dims; ++d) {
          const double term = double{bf16_to_f32(scan.q[uint64_t{i} * scan.n_dims + d])} *
                              double{bf16_to_f32(*scan.entry(page, d))};
          sum += term;
          magnitude += std::abs(term);
        }
        want = std::max(want, sum);
        bound = std::max(bound, 1.01 * (2 * scan.n_dims + 1) * kEps * magnitude);
      }
      ASSERT_NEAR(scores[i * scan.stride() + b], want, bound)
          << what << " query " << i << " block " << b << " seed " << kIndexSeed;
    }
    for (uint64_t j = scan.stride() - kSpare; j < scan.stride(); ++j)
      ASSERT_EQ(scores[i * scan.stride() + j], kUntouched) << what << " past the last block";
  }
}

TEST(DigestScores, AreTheProductsInDoublePrecisionAtEveryShape) {
  Random random(kIndexSeed);
  for (const uint32_t n_dims : {2u, 6u, 64u, 80u, 96u, 128u, 160u, 192u, 256u, 512u})
    for (const uint32_t n_tiles : {1u, 2u, 17u}) {
      DigestScan scan(n_tiles, n_dims, 5, random);
      for (const KernelTable& table : index_tables())
        expect_digest_scores(scan, scan.run(table),
                             std::string(table.name) + " n_dims " + std::to_string(n_dims));
    }
}

TEST(DigestScores, AreTheSameBitsHoweverAScanIsSplit) {
  Random random(kIndexSeed);
  for (const uint32_t n_dims : {66u, 256u})
    for (const uint32_t n_queries : kQueryCounts) {
      DigestScan scan(17, n_dims, n_queries, random);
      for (const KernelTable& table : index_tables())
        EXPECT_TRUE(same_bits(scan.run(table), scan.run_alone(table)))
            << table.name << " n_dims " << n_dims << " queries " << n_queries << " seed "
            << kIndexSeed;
    }
}

TEST(DigestScores, OfABlockAreNaNWhereOnePageIs) {
  Random random(kIndexSeed);
  for (const uint32_t page : {0u, 1u, 6u, 31u}) {
    DigestScan scan(2, 128, 3, random);
    *scan.entry(page, 77) = 0x7fc0;
    for (const KernelTable& table : index_tables()) {
      const std::vector<float> scores = scan.run(table);
      for (uint32_t i = 0; i < 3; ++i)
        for (uint32_t b = 0; b < 2 * kExtentBlocks; ++b)
          EXPECT_EQ(std::isnan(scores[i * scan.stride() + b]), b == page / kPagesPerBlock)
              << table.name << " page " << page << " block " << b;
    }
  }
}

TEST(DigestScores, NoTilesAndNoQueriesWriteNothing) {
  Random random(kIndexSeed);
  DigestScan scan(2, 128, 3, random);
  float score = kUntouched;
  for (const KernelTable& table : index_tables()) {
    table.index.digest_scores({nullptr, 0, 128, scan.q.data(), 3, &score, 0});
    table.index.digest_scores({scan.tiles.pointers(), 2, 128, nullptr, 0, &score, 0});
    EXPECT_EQ(score, kUntouched) << table.name;
  }
}

// ---- Codes ----

struct PqScan {
  PqScan(uint32_t tile_count, uint32_t query_count, Random& random)
      : n_tiles(tile_count), n_queries(query_count), tiles(tile_count, kPqTileBytes) {
    for (uint32_t t = 0; t < n_tiles; ++t)
      for (uint64_t i = 0; i < kPqTileBytes; ++i)
        tiles.tile(t)[i] = static_cast<std::byte>(random());
    for (uint64_t i = 0; i < uint64_t{n_queries} * kPqSubspaces * kPqCentroids; ++i)
      tables.push_back(static_cast<uint8_t>(random()));
    std::uniform_real_distribution<float> uniform(0.001f, 0.1f);
    for (uint32_t i = 0; i < n_queries; ++i) {
      scales.push_back(uniform(random));
      offsets.push_back(-3.0f * uniform(random));
    }
  }

  uint64_t stride() const { return uint64_t{n_tiles} * kExtentBlocks + kSpare; }

  std::vector<float> run(const KernelTable& table) const {
    std::vector<float> scores(n_queries * stride(), kUntouched);
    table.index.pq_scan({tiles.pointers(), n_tiles, tables.data(), scales.data(), offsets.data(),
                         n_queries, scores.data(), stride()});
    return scores;
  }

  uint32_t sum_of(uint32_t query, uint32_t p) {
    uint32_t sum = 0;
    for (uint32_t s = 0; s < kPqSubspaces; ++s) {
      const uint32_t at =
          (p % kExtentPositions / kPqTileKeys * kPqSubspaces + s) * kPqTileKeys + p % kPqTileKeys;
      const auto code = static_cast<uint32_t>(tiles.tile(p / kExtentPositions)[at]);
      sum += tables[(query * kPqSubspaces + s) * kPqCentroids + code % 64];
    }
    return sum;
  }

  /// ln(sum exp) over the larger of each two neighbours' scores of a block.
  double wanted(uint32_t query, uint32_t block) {
    double sum = 0, top = 0;
    for (uint32_t p = block * kBlockPositions; p < (block + 1) * kBlockPositions; p += 2) {
      const double pair = double{scales[query]} * std::max(sum_of(query, p), sum_of(query, p + 1));
      sum = sum * std::exp(top - std::max(top, pair)) + std::exp(pair - std::max(top, pair));
      top = std::max(top, pair);
    }
    return top + std::log(sum) + double{offsets[query]};
  }

  uint32_t n_tiles, n_queries;
  Tiles tiles;
  std::vector<uint8_t> tables;
  std::vector<float> scales, offsets;
};

TEST(PqScan, GivesTheWeightOfEveryBlockAndTheSameBitsOnEverySet) {
  Random random(kIndexSeed);
  for (const uint32_t n_tiles : {1u, 2u, 17u})
    for (const uint32_t n_queries : kQueryCounts) {
      PqScan scan(n_tiles, n_queries, random);
      const std::vector<float> scores = scan.run(index_tables()[0]);
      for (uint32_t i = 0; i < n_queries; ++i)
        for (uint32_t b = 0; b < n_tiles * kExtentBlocks; ++b)
          ASSERT_NEAR(scores[i * scan.stride() + b], scan.wanted(i, b), kWeightTolerance)
              << b << " query " << i << " seed " << kIndexSeed;
      for (const KernelTable& table : index_tables())
        EXPECT_TRUE(same_bits(scan.run(table), scores))
            << table.name << " tiles " << n_tiles << " queries " << n_queries << " seed "
            << kIndexSeed;
    }
}

TEST(PqScan, HoldsTheLargestSumThereIs) {
  Random random(kIndexSeed);
  PqScan scan(1, 2, random);
  std::fill(scan.tables.begin(), scan.tables.end(), uint8_t{255});
  for (const KernelTable& table : index_tables()) {
    const std::vector<float> scores = scan.run(table);
    for (uint32_t b = 0; b < kExtentBlocks; ++b)
      EXPECT_NEAR(scores[b], scan.scales[0] * 4080.0f + scan.offsets[0] + std::log(16.0f), 1e-4)
          << table.name;
  }
}

/// One key after the other is the only one with a sum, so each place of a tile is seen. Steps are
/// so large that the others weigh nothing beside it.
TEST(PqScan, SeesEveryKey) {
  Random random(kIndexSeed);
  PqScan scan(1, 1, random);
  std::fill(scan.tables.begin(), scan.tables.end(), uint8_t{0});
  for (uint32_t s = 0; s < kPqSubspaces; ++s) scan.tables[s * kPqCentroids + 63] = 1;
  scan.offsets[0] = 0;
  for (const float scale : {8.0f, 1e30f})
    for (const KernelTable& table : index_tables())
      for (uint32_t p = 0; p < kExtentPositions; ++p) {
        scan.scales[0] = scale;
        std::fill_n(scan.tiles.tile(0), kPqTileBytes, std::byte{0});
        for (uint32_t s = 0; s < kPqSubspaces; ++s)
          scan.tiles.tile(0)[(p / kPqTileKeys * kPqSubspaces + s) * kPqTileKeys + p % kPqTileKeys] =
              std::byte{63};
        const std::vector<float> scores = scan.run(table);
        for (uint32_t b = 0; b < kExtentBlocks; ++b) {
          const float log_of_equals = std::log(16.0f);
          ASSERT_FLOAT_EQ(scores[b], b == p / kBlockPositions ? 16.0f * scale : log_of_equals)
              << table.name << " position " << p;
        }
      }
}

TEST(PqScanDeathTest, RefusesAScaleThatIsNotPositive) {
  Random random(kIndexSeed);
  PqScan scan(1, 2, random);
  scan.scales[1] = 0;
  for (const KernelTable& table : index_tables()) EXPECT_DEATH(scan.run(table), "query 1: scale=0");
}

}  // namespace
}  // namespace strata::cpu_attn
