// What product quantisation estimates, against the codes it keeps and the keys they stand for.
#include "index/pq_selector.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "cpu_attn/index.h"
#include "tests/index/pq_fixture.h"

namespace strata::index {
namespace {

using namespace testing;

const KernelTable& kernels() { return cpu_attn::choose_kernels(); }

std::unique_ptr<Selector> make_pq(const KvLayout& layout, uint32_t n_streams, uint32_t n_blocks,
                                  const KernelTable& table = kernels()) {
  return SelectorSource(Method::kPq, {layout, n_streams, n_blocks}, table).make();
}

/// ln(sum exp) over the larger product of q with each two neighbouring keys as decoded, and how far
/// an estimate may be from it.
struct Decoded {
  double score = 0;
  double bound = 0;
};

double log_of_pairs(const std::vector<double>& scores) {
  const double top = std::ranges::max(scores);
  double sum = 0;
  for (size_t i = 0; i < scores.size(); i += 2)
    sum += std::exp(std::max(scores[i], scores[i + 1]) - top);
  return top + std::log(sum);
}

Decoded decoded_score(const Selector& selector, uint32_t block, const float* q, uint32_t head_dim) {
  const auto rows = selector.rows(0, block / kExtentBlocks);
  const auto centroids = centroids_at(selector, block / kExtentBlocks);
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
  std::vector<double> scores(kBlockPositions);
  for (uint32_t i = 0; i < kBlockPositions; ++i)
    for (uint32_t s = 0; s < kPqSubspaces; ++s)
      scores[i] += products[s * kPqCentroids + code_of(rows, block, s, i)];
  out.score = log_of_pairs(scores);
  // Half a step per sub-space, and sums in f32 of n_dims products, of 16 offsets and of a product.
  out.bound = kPqSubspaces * widest / 255 / 2 + magnitude * (n_dims + 32) * 0x1p-23 +
              cpu_attn::kWeightTolerance;
  return out;
}

TEST(PqSelector, AWeightIsThatOfTheDecodedKeys) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (const KernelTable* table : cpu_attn::available_kernels())
    for (const uint32_t head_dim : {64u, 80u, 96u, 128u, 256u}) {
      SCOPED_TRACE(std::string(table->name) + " " + std::to_string(head_dim));
      const uint32_t n_blocks = kSegmentBlocks + 19;
      const Keys keys = clustered_keys(f16_layout(head_dim), n_blocks, *table, random());
      const auto selector = make_pq(f16_layout(head_dim), 1, n_blocks, *table);
      observe_range(*selector, 0, keys, 0, n_blocks);
      const auto n_queries = static_cast<uint32_t>(1 + random() % 9);
      const auto q = drawn_queries(n_queries, head_dim, random);
      const auto weights = estimates(*selector, 0, q, n_queries);
      double worst = 0;
      for (uint32_t query = 0; query < n_queries; ++query)
        for (uint32_t block = 0; block < kSegmentBlocks; ++block) {
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
  const uint32_t n_blocks = 2 * kSegmentBlocks;
  Keys keys = clustered_keys(f16_layout(kHeadDim), n_blocks, kernels(), 3);
  const auto selector = make_pq(f16_layout(kHeadDim), 1, n_blocks);
  observe_range(*selector, 0, keys, 0, n_blocks);
  for (uint32_t block = 0; block < n_blocks; ++block) {
    const auto rows = selector->rows(0, block / kExtentBlocks);
    const auto centroids = centroids_at(*selector, block / kExtentBlocks);
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
      }
  }
}

TEST(PqSelector, UntilASegmentIsThereWeightsAreThoseOfTheKeys) {
  std::mt19937_64 random(5);
  for (const KvCodec codec : {KvCodec::kF16, KvCodec::kQ8_0})
    for (const uint32_t n_positions : {10u, 33u, (kSegmentBlocks - 1) * kBlockPositions}) {
      const auto layout = KvLayout::make(codec, codec, 64);
      const uint32_t n_blocks = n_positions / kBlockPositions;
      Keys keys = clustered_keys(layout, n_blocks + 1, kernels(), 4);
      const auto selector = make_pq(layout, 1, 100);
      observe_range(*selector, 0, keys, 0, n_blocks);
      const auto q = drawn_queries(3, 64, random);
      const auto weights = estimates(*selector, 0, q, 3);
      ASSERT_EQ(selector->n_blocks(), n_blocks);  // none of 10 positions: nothing to leave out
      ASSERT_EQ(weights.size(), 3 * n_blocks);
      for (uint32_t i = 0; i < weights.size(); ++i) {
        std::vector<double> scores;
        const float* query = q.data() + size_t{i / n_blocks} * 64;
        for (uint32_t key = 0; key < kBlockPositions; ++key) {
          const uint32_t pos = i % n_blocks * kBlockPositions + key;
          scores.push_back(keys.score(query, pos));
        }
        ASSERT_NEAR(weights[i], log_of_pairs(scores), cpu_attn::kWeightTolerance) << i;
      }
      for (uint32_t e = 0; e < n_blocks / kExtentBlocks; ++e)
        EXPECT_TRUE(selector->rows(0, e).empty()) << e;
      EXPECT_EQ(selector->n_codebooks(0), 0u);
    }
}

TEST(PqSelector, EverySegmentHasACodebookForItsKeys) {
  const uint32_t n_blocks = 4 * kSegmentBlocks;
  const uint32_t change = 2 * kSegmentBlocks;
  Keys keys = clustered_keys(f16_layout(64), n_blocks, kernels(), 7);
  std::mt19937_64 random(8);
  ClusteredKeys(64, random).draw(keys, change, n_blocks, random);
  keys.store();
  const auto selector = make_pq(f16_layout(64), 1, n_blocks);
  observe_range(*selector, 0, keys, 0, n_blocks);
  ASSERT_EQ(selector->n_codebooks(0), 4u);
  // A codebook that begins with that of other keys is as good as one that begins anew.
  const auto anew = make_pq(f16_layout(64), 1, n_blocks);
  Keys later = clustered_keys(f16_layout(64), kSegmentBlocks, kernels(), 9);
  for (uint32_t pos = 0; pos < kSegmentBlocks * kBlockPositions; ++pos)
    std::copy_n(keys.key(change * kBlockPositions + pos), 64, later.key(pos));
  later.store();
  observe_range(*anew, 0, later, 0, kSegmentBlocks);
  const double error = segment_error(*selector, keys, 2), wanted = segment_error(*anew, later, 0);
  printf("mean squared error of new keys %.2f, by a codebook of only these %.2f\n", error, wanted);
  EXPECT_LT(error, 1.15 * wanted);
  // All are scored by their own tables.
  const auto q = drawn_queries(2, 64, random);
  const auto weights = estimates(*selector, 0, q, 2);
  for (uint32_t i = 0; i < weights.size(); ++i) {
    const Decoded want =
        decoded_score(*selector, i % n_blocks, q.data() + size_t{i / n_blocks} * 64, 64);
    ASSERT_NEAR(weights[i], want.score, want.bound) << i;
  }
  EXPECT_EQ(weights, estimates(*selector, 0, q, 2, 24));
}

}  // namespace
}  // namespace strata::index
