// What product quantisation estimates, against the codes it keeps and the keys they stand for.
#include "index/pq_selector.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/index/pq_fixture.h"

namespace strata::index {
namespace {

using namespace testing;

const KernelTable& kernels() { return cpu_attn::choose_kernels(); }

std::unique_ptr<Selector> make_pq(const KvLayout& layout, uint32_t n_streams, uint32_t n_blocks,
                                  const KernelTable& table = kernels()) {
  return SelectorSource(Method::kPq, {layout, n_streams, n_blocks}, table).make();
}

/// A block's largest product of q with its decoded keys, and how far an estimate may be from it.
struct Decoded {
  double score = -1e300;
  double bound = 0;
};

Decoded decoded_score(const Selector& selector, uint32_t block, const float* q, uint32_t head_dim) {
  const auto rows = selector.rows(0, block / kExtentBlocks);
  const auto centroids = centroids_of(selector.codebook(0, trailer_of(rows).codebook));
  const uint32_t n_dims = head_dim / kPqSubspaces;
  const auto product = [&](uint32_t s, uint32_t c) {
    double sum = 0;
    for (uint32_t d = s * n_dims; d < (s + 1) * n_dims; ++d)
      sum += double{q[d]} * double{centroids[d * kPqCentroids + c]};
    return sum;
  };
  double widest = 0, magnitude = 0;
  std::vector<double> products;
  for (uint32_t s = 0; s < kPqSubspaces; ++s) {
    for (uint32_t c = 0; c < kPqCentroids; ++c) products.push_back(product(s, c));
    const auto [low, high] = std::minmax_element(products.end() - kPqCentroids, products.end());
    widest = std::max(widest, *high - *low);
    double largest = 0;
    for (uint32_t d = s * n_dims; d < (s + 1) * n_dims; ++d) {
      double value = 0;
      for (uint32_t c = 0; c < kPqCentroids; ++c)
        value = std::max(value, std::abs(double{q[d]} * double{centroids[d * kPqCentroids + c]}));
      largest += value;
    }
    magnitude += largest;
  }
  Decoded out;
  for (uint32_t i = 0; i < kBlockPositions; ++i) {
    double score = 0;
    for (uint32_t s = 0; s < kPqSubspaces; ++s)
      score += products[s * kPqCentroids + code_of(rows, block, s, i)];
    out.score = std::max(out.score, score);
  }
  // Half a step per sub-space, and sums in f32 of n_dims products, of 16 offsets and of a product.
  out.bound = kPqSubspaces * widest / 255 / 2 + magnitude * (n_dims + 32) * 0x1p-23;
  return out;
}

TEST(PqSelector, AWeightIsTheLargestScoreOfTheDecodedKeys) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (const KernelTable* table : cpu_attn::available_kernels())
    for (const uint32_t head_dim : {64u, 80u, 96u, 128u, 256u}) {
      SCOPED_TRACE(std::string(table->name) + " " + std::to_string(head_dim));
      const uint32_t n_blocks = kSampleBlocks + 19;
      const Keys keys = clustered_keys(f16_layout(head_dim), n_blocks, *table, random());
      const auto selector = make_pq(f16_layout(head_dim), 1, n_blocks, *table);
      observe_range(*selector, 0, keys, 0, n_blocks);
      const auto n_queries = static_cast<uint32_t>(1 + random() % 9);
      const auto q = drawn_queries(n_queries, head_dim, random);
      const auto weights = estimates(*selector, 0, q, n_queries);
      double worst = 0;
      for (uint32_t query = 0; query < n_queries; ++query)
        for (uint32_t block = 0; block < n_blocks / kExtentBlocks * kExtentBlocks; ++block) {
          const Decoded want =
              decoded_score(*selector, block, q.data() + uint64_t{query} * head_dim, head_dim);
          const double error =
              std::abs(double{weights[uint64_t{query} * n_blocks + block]} - want.score);
          ASSERT_LE(error, want.bound) << block;
          worst = std::max(worst, error / want.bound);
        }
      EXPECT_GT(worst, 0.05);  // a bound that means something
      EXPECT_EQ(weights, estimates(*selector, 0, q, n_queries, 16));  // in pieces
    }
}

TEST(PqSelector, EveryCodeNamesTheNearestCentroid) {
  constexpr uint32_t kHeadDim = 64;
  const uint32_t n_blocks = kSampleBlocks + kExtentBlocks;
  Keys keys = clustered_keys(f16_layout(kHeadDim), n_blocks, kernels(), 3);
  const auto selector = make_pq(f16_layout(kHeadDim), 1, n_blocks);
  observe_range(*selector, 0, keys, 0, n_blocks);
  const auto centroids = centroids_of(selector->codebook(0, 0));
  for (uint32_t block = 0; block < n_blocks; ++block) {
    const auto rows = selector->rows(0, block / kExtentBlocks);
    double error = 0;
    for (uint32_t i = 0; i < kBlockPositions; ++i)
      for (uint32_t s = 0; s < kPqSubspaces; ++s) {
        const auto distance = [&](uint32_t c) {
          double sum = 0;
          for (uint32_t d = s * 4; d < s * 4 + 4; ++d)
            sum += std::pow(double{keys.key(block * kBlockPositions + i)[d]} -
                                double{centroids[d * kPqCentroids + c]},
                            2);
          return sum;
        };
        double nearest = distance(0), magnitude = 0;
        for (uint32_t c = 0; c < kPqCentroids; ++c) nearest = std::min(nearest, distance(c));
        for (uint32_t d = s * 4; d < s * 4 + 4; ++d)
          magnitude += std::pow(double{keys.key(block * kBlockPositions + i)[d]}, 2);
        const double found = distance(code_of(rows, block, s, i));
        ASSERT_LE(found, nearest + (magnitude + nearest) * 0x1p-18) << block << " " << s;
        error += found;
      }
    const double stated = trailer_of(rows).errors[block % kExtentBlocks];
    ASSERT_NEAR(stated, error / kBlockPositions, 1e-4 * error / kBlockPositions);
  }
}

TEST(PqSelector, UntilTheSampleIsThereScoresAreThoseOfTheKeys) {
  std::mt19937_64 random(5);
  for (const KvCodec codec : {KvCodec::kF16, KvCodec::kQ8_0})
    for (const uint32_t n_positions : {10u, 33u, (kSampleBlocks - 1) * kBlockPositions}) {
      const auto layout = KvLayout::make(codec, codec, 64);
      const uint32_t n_blocks = n_positions / kBlockPositions;
      Keys keys = clustered_keys(layout, n_blocks + 1, kernels(), 4);
      const auto selector = make_pq(layout, 1, 100);
      observe_range(*selector, 0, keys, 0, n_blocks);
      const auto q = drawn_queries(3, 64, random);
      const auto weights = estimates(*selector, 0, q, 3);
      ASSERT_EQ(weights.size(), 3 * n_blocks);
      for (uint32_t i = 0; i < weights.size(); ++i) {
        double want = -1e300, magnitude = 0;
        const float* query = q.data() + size_t{i / n_blocks} * 64;
        for (uint32_t key = 0; key < kBlockPositions; ++key) {
          const uint32_t pos = i % n_blocks * kBlockPositions + key;
          want = std::max(want, keys.score(query, pos));
          double sum = 0;
          for (uint32_t d = 0; d < 64; ++d) sum += std::abs(query[d] * keys.key(pos)[d]);
          magnitude = std::max(magnitude, sum);
        }
        ASSERT_NEAR(weights[i], want, magnitude * 64 * 0x1p-24) << i;
      }
      for (uint32_t e = 0; e < n_blocks / kExtentBlocks; ++e)
        EXPECT_TRUE(selector->rows(0, e).empty()) << e;
      EXPECT_EQ(selector->n_codebooks(0), 0u);
    }
}

TEST(PqSelector, KeysOfOneKindKeepOneCodebook) {
  const uint32_t n_blocks = 60 * kExtentBlocks;
  for (const uint32_t head_dim : {64u, 128u, 256u}) {
    const Keys keys = clustered_keys(f16_layout(head_dim), n_blocks, kernels(), 6);
    const auto selector = make_pq(f16_layout(head_dim), 1, n_blocks);
    observe_range(*selector, 0, keys, 0, n_blocks);
    EXPECT_EQ(selector->n_codebooks(0), 1u);
  }
}

TEST(PqSelector, KeysOfAnotherKindGetTheirOwnCodebook) {
  const uint32_t n_blocks = 64 * kExtentBlocks;
  const uint32_t change = 32 * kExtentBlocks;
  Keys keys = clustered_keys(f16_layout(64), n_blocks, kernels(), 7);
  std::mt19937_64 random(8);
  ClusteredKeys(64, random, 2.0f).draw(keys, change, n_blocks, random);
  keys.store();
  const auto selector = make_pq(f16_layout(64), 1, n_blocks);
  observe_range(*selector, 0, keys, 0, change);
  const auto before = stream_bytes(*selector, 0);
  observe_range(*selector, 0, keys, change, n_blocks);
  ASSERT_EQ(selector->n_codebooks(0), 2u);
  const auto after = stream_bytes(*selector, 0);
  const size_t book = selector->codebook(0, 0).size();
  EXPECT_TRUE(std::equal(before.begin() + static_cast<ptrdiff_t>(book), before.end(),
                         after.begin() + static_cast<ptrdiff_t>(2 * book)))
      << "old codes stay";
  // The error grows where the kind changes and falls again with the second codebook.
  const auto error = [&](uint32_t extent) {
    double sum = 0;
    for (const float x : trailer_of(selector->rows(0, extent)).errors) sum += x;
    return sum;
  };
  EXPECT_EQ(trailer_of(selector->rows(0, 32)).codebook, 0u);
  EXPECT_EQ(trailer_of(selector->rows(0, 33)).codebook, 1u);
  EXPECT_EQ(trailer_of(selector->rows(0, 63)).codebook, 1u);
  EXPECT_GT(error(32), 2 * error(63));
  // Both are scored by their own tables.
  const auto q = drawn_queries(2, 64, random);
  const auto weights = estimates(*selector, 0, q, 2);
  for (uint32_t i = 0; i < weights.size(); ++i) {
    const Decoded want =
        decoded_score(*selector, i % n_blocks, q.data() + size_t{i / n_blocks} * 64, 64);
    ASSERT_NEAR(weights[i], want.score, want.bound) << i;
  }
  EXPECT_EQ(weights, estimates(*selector, 0, q, 2, 24));
}

TEST(PqSelector, CodebooksAreBounded) {
  constexpr uint32_t kExtents = 320;
  const auto layout = f16_layout(16);
  Keys keys(layout, kExtents * kExtentBlocks, kernels());
  std::mt19937_64 random(9);
  std::normal_distribution<float> normal;
  for (uint32_t pos = 0; pos < keys.n_blocks() * kBlockPositions; ++pos)
    for (uint32_t d = 0; d < 16; ++d)  // ever wider, so that every codebook becomes old
      keys.key(pos)[d] = normal(random) * std::exp(static_cast<float>(pos) / 16000.0f);
  keys.store();
  const auto selector = make_pq(layout, 1, keys.n_blocks());
  observe_range(*selector, 0, keys, 0, keys.n_blocks());
  EXPECT_EQ(selector->n_codebooks(0), PqSelector::kMaxCodebooks);
  EXPECT_EQ(trailer_of(selector->rows(0, kExtents - 1)).codebook, PqSelector::kMaxCodebooks - 1);
}

}  // namespace
}  // namespace strata::index
