// tests/cpu_attn/index_kernels_test.cc - what an index computes once per block or per choice:
// load_k, pq_encode, pq_table, key_scores and pool_shares of every instruction set against double
// precision.
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

constexpr float kInf = std::numeric_limits<float>::infinity();
const std::vector<uint32_t> kHeadDims{64, 80, 96, 128, 256};

// ---- Keys ----

TEST(LoadK, GivesTheStoredKeysRoundedOnce) {
  Random random(kIndexSeed);
  for (const KvCodec codec : {KvCodec::kF16, KvCodec::kQ8_0})
    for (const uint32_t head_dim : {8u, 64u, 80u, 96u, 128u, 256u}) {
      if (codec == KvCodec::kQ8_0 && head_dim % 32 != 0) continue;
      const KvLayout layout = KvLayout::make(codec, codec, head_dim);
      std::vector<std::byte> block(layout.block_bytes);
      for (std::byte& byte : block) byte = static_cast<std::byte>(random());
      auto* scales = reinterpret_cast<uint16_t*>(block.data() + layout.k_scales_offset);
      if (codec == KvCodec::kQ8_0)  // any finite scale
        for (uint32_t i = 0; i < head_dim; ++i) scales[i] = scales[i] & 0xbbffu;
      for (const KernelTable& table : index_tables()) {
        std::vector<float> out(uint64_t{head_dim} * 32 + 1, -12345.0f);
        table.index.load_k(layout, block.data(), out.data());
        EXPECT_EQ(out.back(), -12345.0f) << table.name;
        for (uint32_t i = 0; i < head_dim * 32; ++i) {
          const auto* halves = reinterpret_cast<const uint16_t*>(block.data());
          const float want = codec == KvCodec::kF16
                                 ? f16_to_f32(halves[i])
                                 : f16_to_f32(scales[i / 1024 * 32 + i % 32]) *
                                       static_cast<float>(static_cast<int8_t>(block[i]));
          if (std::isnan(want)) {
            ASSERT_TRUE(std::isnan(out[i])) << table.name;
          } else {
            ASSERT_EQ(out[i], want) << table.name << ' ' << kv_codec_name(codec) << " head_dim "
                                    << head_dim << " place " << i << " seed " << kIndexSeed;
          }
        }
      }
    }
}

// ---- Encoding ----

struct Encoding {
  Encoding(uint32_t dims, Random& random)
      : head_dim(dims),
        keys(normal_floats(random, uint64_t{dims} * kBlockPositions, 1.0f)),
        centroids(normal_floats(random, uint64_t{dims} * kPqCentroids, 1.0f)),
        half_norms(uint64_t{kPqSubspaces} * kPqCentroids) {
    measure_norms();
  }

  uint32_t sub_dims() const { return head_dim / kPqSubspaces; }
  float& key(uint32_t s, uint32_t d, uint32_t p) {
    return keys[(s * sub_dims() + d) * kBlockPositions + p];
  }
  float& centroid(uint32_t s, uint32_t d, uint32_t c) {
    return centroids[(s * sub_dims() + d) * kPqCentroids + c];
  }
  void measure_norms() {
    for (uint32_t s = 0; s < kPqSubspaces; ++s)
      for (uint32_t c = 0; c < kPqCentroids; ++c) {
        double sum = 0;
        for (uint32_t d = 0; d < sub_dims(); ++d)
          sum += double{centroid(s, d, c)} * double{centroid(s, d, c)};
        half_norms[s * kPqCentroids + c] = static_cast<float>(sum / 2);
      }
  }

  /// Columns [32, 64) of a tile's codes; the others must stay 0xee.
  std::vector<uint8_t> run(const KernelTable& table) const {
    std::vector<uint8_t> codes(uint64_t{kPqSubspaces} * kPqTileKeys, 0xee);
    table.index.pq_encode(
        {keys.data(), centroids.data(), half_norms.data(), head_dim, codes.data() + 32});
    for (uint32_t s = 0; s < kPqSubspaces; ++s)
      for (uint32_t p = 0; p < 32; ++p)
        EXPECT_EQ(codes[s * kPqTileKeys + p], 0xee) << table.name << " the other block's column";
    return codes;
  }

  uint32_t head_dim;
  std::vector<float> keys, centroids, half_norms;
};

/// The centroid found is the nearest, or nearer than rounding can tell: each of two scores
/// k . c - |c|^2 / 2 errs by (2 sub_dims + 1) eps (sum |k c| + |c|^2 / 2), half_norm's own rounding
/// included.
TEST(PqEncode, FindsTheNearestCentroidOrOneAsNearWithinRounding) {
  Random random(kIndexSeed);
  for (const uint32_t head_dim : kHeadDims) {
    Encoding e(head_dim, random);
    for (const KernelTable& table : index_tables()) {
      const std::vector<uint8_t> codes = e.run(table);
      for (uint32_t s = 0; s < kPqSubspaces; ++s)
        for (uint32_t p = 0; p < kBlockPositions; ++p) {
          std::vector<double> score(kPqCentroids), bound(kPqCentroids);
          for (uint32_t c = 0; c < kPqCentroids; ++c) {
            double magnitude = 0;
            for (uint32_t d = 0; d < e.sub_dims(); ++d) {
              const double k = e.key(s, d, p), x = e.centroid(s, d, c);
              score[c] += k * x - x * x / 2;
              magnitude += std::abs(k * x) + x * x / 2;
            }
            bound[c] = 1.01 * (2 * e.sub_dims() + 1) * kEps * magnitude;
          }
          const auto best =
              static_cast<uint32_t>(std::max_element(score.begin(), score.end()) - score.begin());
          const uint32_t found = codes[s * kPqTileKeys + 32 + p];
          ASSERT_LT(found, kPqCentroids) << table.name;
          if (found == best) continue;
          ASSERT_LE(score[best] - score[found], bound[best] + bound[found])
              << table.name << " head_dim " << head_dim << " sub-space " << s << " key " << p
              << " seed " << kIndexSeed;
        }
    }
  }
}

/// By the words of base/index_kernels.h: entries decode to the products within half a step, which
/// is 1/255 of the widest range of a sub-space.
TEST(PqTable, EntriesAreTheProductsInStepsOfTheWidestRange) {
  Random random(kIndexSeed);
  for (const uint32_t head_dim : kHeadDims) {
    Encoding e(head_dim, random);
    const std::vector<float> q = normal_floats(random, head_dim, 1.0f);
    std::vector<double> products(uint64_t{kPqSubspaces} * kPqCentroids), bounds(products.size());
    double range = 0, offset = 0, magnitude = 0;
    for (uint32_t s = 0; s < kPqSubspaces; ++s) {
      const auto first = products.begin() + s * kPqCentroids;
      for (uint32_t c = 0; c < kPqCentroids; ++c)
        for (uint32_t d = 0; d < e.sub_dims(); ++d) {
          const double product = double{q[s * e.sub_dims() + d]} * e.centroid(s, d, c);
          products[s * kPqCentroids + c] += product;
          bounds[s * kPqCentroids + c] += (e.sub_dims() + 4) * kEps * std::abs(product);
        }
      const auto [low, high] = std::minmax_element(first, first + kPqCentroids);
      range = std::max(range, *high - *low);
      offset += *low;
      magnitude += std::abs(*low) + bounds[s * kPqCentroids];
    }
    for (const KernelTable& table : index_tables()) {
      std::vector<uint8_t> entries(products.size(), 0xee);
      float scale = 0, found_offset = 0;
      table.index.pq_table(
          {e.centroids.data(), q.data(), head_dim, entries.data(), &scale, &found_offset});
      EXPECT_NEAR(scale, range / 255, 1e-5 * range) << table.name;
      EXPECT_NEAR(found_offset, offset, 1e-5 * magnitude) << table.name;
      uint8_t largest = 0;
      for (uint32_t s = 0; s < kPqSubspaces; ++s) {
        const auto first = products.begin() + s * kPqCentroids;
        const double low = *std::min_element(first, first + kPqCentroids);
        for (uint32_t c = 0; c < kPqCentroids; ++c) {
          const uint32_t i = s * kPqCentroids + c;
          ASSERT_NEAR(low + entries[i] * range / 255, products[i],
                      range / 510 * 1.001 + 2 * bounds[i])
              << table.name << " head_dim " << head_dim << " sub-space " << s << " centroid " << c;
          largest = std::max(largest, entries[i]);
        }
      }
      EXPECT_EQ(largest, 255) << table.name;
    }
  }
}

TEST(PqTable, WhereProductsAreNotFiniteScoresAreInfinite) {
  Random random(kIndexSeed);
  Encoding e(64, random);
  for (const KernelTable& table : index_tables())
    for (const float value : {std::nanf(""), INFINITY, -INFINITY, 3e38f})
      for (const uint32_t at : {0u, 3u, 63u}) {
        std::vector<float> q(64, 1.0f);
        q[at] = value;
        std::vector<uint8_t> entries(uint64_t{kPqSubspaces} * kPqCentroids, 0xee);
        float scale = 0, offset = 0;
        table.index.pq_table({e.centroids.data(), q.data(), 64, entries.data(), &scale, &offset});
        EXPECT_EQ(offset, INFINITY) << table.name << " " << value;
        EXPECT_EQ(scale, 1.0f);
        EXPECT_EQ(*std::max_element(entries.begin(), entries.end()), 0);
      }
}

/// ln(sum exp) over the larger of each two neighbours' scores.
TEST(KeyScores, AreTheWeightsOfBlocks) {
  Random random(kIndexSeed);
  for (const uint32_t head_dim : kHeadDims)
    for (const uint32_t n_queries : {1u, 3u, 9u}) {
      Encoding e(head_dim, random);
      const std::vector<float> q = normal_floats(random, uint64_t{head_dim} * n_queries,
                                                 2.0f / std::sqrt(static_cast<float>(head_dim)));
      for (const KernelTable& table : index_tables()) {
        std::vector<float> scores(2 * n_queries, -7.0f);
        const KeyScoreArgs args{e.keys.data(), q.data(), head_dim, n_queries, scores.data(), 2};
        table.index.key_scores(args);
        for (uint32_t i = 0; i < n_queries; ++i) {
          double sum = 0;
          for (uint32_t p = 0; p < kBlockPositions; p += 2) {
            double pair[2] = {};
            for (uint32_t d = 0; d < head_dim; ++d)
              for (uint32_t k = 0; k < 2; ++k)
                pair[k] += double{q[i * head_dim + d]} * e.keys[d * kBlockPositions + p + k];
            sum += std::exp(std::max(pair[0], pair[1]));
          }
          EXPECT_NEAR(scores[2 * i], std::log(sum), kWeightTolerance)
              << table.name << " " << head_dim;
          EXPECT_EQ(scores[2 * i + 1], -7.0f) << "not its own";
        }
        for (const float value : {std::nanf(""), INFINITY, -INFINITY}) {
          std::vector<float> keys = e.keys;
          keys[head_dim * kBlockPositions - 1] = value;
          KeyScoreArgs bad = args;
          bad.keys = keys.data();
          table.index.key_scores(bad);
          EXPECT_EQ(scores[0], INFINITY) << table.name << " " << value;
        }
      }
    }
}

/// Small whole numbers are exact in f32, and each centroid stands there twice.
TEST(PqEncode, TakesTheFirstOfEquals) {
  Random random(kIndexSeed);
  for (const uint32_t head_dim : {64u, 128u}) {
    Encoding e(head_dim, random);
    for (float& x : e.keys) x = static_cast<float>(random() % 7) - 3.0f;
    for (uint32_t s = 0; s < kPqSubspaces; ++s)
      for (uint32_t d = 0; d < e.sub_dims(); ++d)
        for (uint32_t c = 0; c < kPqCentroids / 2; ++c)
          e.centroid(s, d, c) = e.centroid(s, d, c + kPqCentroids / 2) =
              static_cast<float>(random() % 7) - 3.0f;
    e.measure_norms();
    for (const KernelTable& table : index_tables()) {
      const std::vector<uint8_t> codes = e.run(table);
      for (uint32_t s = 0; s < kPqSubspaces; ++s)
        for (uint32_t p = 0; p < kBlockPositions; ++p) {
          double least = std::numeric_limits<double>::infinity();
          uint32_t best = 0;
          for (uint32_t c = 0; c < kPqCentroids; ++c) {
            double distance = 0;
            for (uint32_t d = 0; d < e.sub_dims(); ++d)
              distance += std::pow(double{e.key(s, d, p)} - e.centroid(s, d, c), 2);
            if (distance < least) {
              least = distance;
              best = c;
            }
          }
          ASSERT_EQ(codes[s * kPqTileKeys + 32 + p], best)
              << table.name << " sub-space " << s << " key " << p << " seed " << kIndexSeed;
        }
    }
  }
}

TEST(PqEncode, GivesAKeyThatIsNoNumberTheFirstCentroidAndItsNeighboursTheirs) {
  Random random(kIndexSeed);
  Encoding e(128, random);
  for (const KernelTable& table : index_tables()) {
    Encoding broken = e;
    for (uint32_t s = 0; s < kPqSubspaces; ++s)
      broken.key(s, 3, 5) = std::numeric_limits<float>::quiet_NaN();
    const std::vector<uint8_t> codes = broken.run(table), before = e.run(table);
    for (uint32_t s = 0; s < kPqSubspaces; ++s)
      for (uint32_t p = 0; p < kBlockPositions; ++p)
        EXPECT_EQ(codes[s * kPqTileKeys + 32 + p], p == 5 ? 0 : before[s * kPqTileKeys + 32 + p])
            << table.name << " key " << p;
  }
}

// ---- Shares ----

struct Pooling {
  Pooling(uint32_t query_count, uint32_t block_count, Random& random)
      : n_queries(query_count),
        n_blocks(block_count),
        stride(block_count + 5),
        weights(normal_floats(random, query_count * stride, 12.0f)) {}

  float& weight(uint32_t i, uint32_t b) { return weights[i * stride + b]; }

  std::vector<float> run(const KernelTable& table, bool is_max) const {
    std::vector<float> pooled(uint64_t{n_blocks} + 1, -12345.0f);
    table.index.pool_shares({weights.data(), stride, n_queries, n_blocks, is_max, pooled.data()});
    EXPECT_EQ(pooled.back(), -12345.0f) << table.name;
    pooled.pop_back();
    return pooled;
  }

  uint32_t n_queries, n_blocks;
  uint64_t stride;
  std::vector<float> weights;
};

/// A share e / l errs, relative: e by eps |w - m| of the difference and 4 eps (2 ulp) of exp; l by
/// the mean of that and n_blocks eps of its sum; eps each of 1 / l, of the product, and of each sum
/// over queries. Absolute: what exp takes for nothing. First order, 1 % for the rest.
TEST(PoolShares, AreThoseOfDoublePrecision) {
  Random random(kIndexSeed);
  for (const uint32_t n_queries : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 9u, 96u})
    for (const uint32_t n_blocks : {1u, 2u, 7u, 8u, 15u, 16u, 17u, 63u, 64u, 65u, 300u, 1000u}) {
      Pooling p(n_queries, n_blocks, random);
      if (n_blocks > 2) p.weight(0, 2) = -kInf;
      std::vector<double> sum(n_blocks), most(n_blocks), bound(n_blocks);
      for (uint32_t i = 0; i < n_queries; ++i) {
        double m = -kInf, l = 0, l_error = 0;
        for (uint32_t b = 0; b < n_blocks; ++b) m = std::max(m, double{p.weight(i, b)});
        const auto error_of = [&](uint32_t b) {
          return p.weight(i, b) == -kInf ? 0 : (m - p.weight(i, b) + 4) * kEps;
        };
        for (uint32_t b = 0; b < n_blocks; ++b) {
          const double e = std::exp(p.weight(i, b) - m);
          l += e;
          l_error += e * error_of(b);
        }
        for (uint32_t b = 0; b < n_blocks; ++b) {
          const double share = std::exp(p.weight(i, b) - m) / l;
          sum[b] += share;
          most[b] = std::max(most[b], share);
          bound[b] +=
              1.01 * share * (error_of(b) + l_error / l + (n_blocks + 2 + n_queries) * kEps) +
              0x1p-125;
        }
      }
      for (const KernelTable& table : index_tables()) {
        const std::vector<float> summed = p.run(table, false), largest = p.run(table, true);
        for (uint32_t b = 0; b < n_blocks; ++b) {
          ASSERT_NEAR(summed[b], sum[b], bound[b])
              << table.name << " queries " << n_queries << " block " << b << " of " << n_blocks
              << " seed " << kIndexSeed;
          ASSERT_NEAR(largest[b], most[b], bound[b]) << table.name << " by the largest";
        }
      }
    }
}

TEST(PoolShares, AQueryWithoutWeightAddsNothing) {
  Random random(kIndexSeed);
  for (const uint32_t n_blocks : {1u, 16u, 37u}) {
    Pooling both(2, n_blocks, random), one = both;
    for (uint32_t b = 0; b < n_blocks; ++b) both.weight(1, b) = -kInf;
    one.n_queries = 1;
    for (const KernelTable& table : index_tables())
      for (const bool is_max : {false, true}) {
        EXPECT_TRUE(same_bits(both.run(table, is_max), one.run(table, is_max))) << table.name;
        Pooling none = both;
        std::fill(none.weights.begin(), none.weights.end(), -kInf);
        EXPECT_EQ(none.run(table, is_max), std::vector<float>(n_blocks, 0.0f)) << table.name;
      }
  }
}

TEST(PoolShares, InfiniteWeightsShareTheirQueryEqually) {
  Random random(kIndexSeed);
  Pooling p(1, 70, random);
  for (const uint32_t b : {3u, 40u, 69u}) p.weight(0, b) = kInf;
  p.weight(0, 41) = -kInf;
  p.weight(0, 42) = std::numeric_limits<float>::max();
  for (const KernelTable& table : index_tables())
    for (const bool is_max : {false, true}) {
      const std::vector<float> shares = p.run(table, is_max);
      for (uint32_t b = 0; b < 70; ++b)
        EXPECT_EQ(shares[b], b == 3 || b == 40 || b == 69 ? 1.0f / 3.0f : 0.0f)
            << table.name << " block " << b;
    }
}

}  // namespace
}  // namespace strata::cpu_attn
