// Digests of pages against their definitions in double precision.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/index/selector_fixture.h"

namespace strata::index {
namespace {

using testing::drawn_queries;
using testing::estimates;
using testing::Keys;
using testing::observe_all;

/// The score of one page of 16 keys by the definition, and the sum of |q| |digest|, by which the
/// error of two roundings to bf16 is bounded.
struct PageScore {
  double score = 0;
  double magnitude = 0;
};

PageScore page_score(Method method, Keys& keys, uint32_t first_pos, const float* q,
                     uint32_t head_dim) {
  PageScore out;
  for (uint32_t d = 0; d < head_dim; ++d) {
    double least = keys.key(first_pos)[d], largest = least, sum = 0, deviation = 0;
    for (uint32_t i = 0; i < kPagePositions; ++i) {
      const double x = keys.key(first_pos + i)[d];
      least = std::min(least, x);
      largest = std::max(largest, x);
      sum += x;
    }
    const double centre = (least + largest) / 2;
    for (uint32_t i = 0; i < kPagePositions; ++i)
      deviation += std::abs(double{keys.key(first_pos + i)[d]} - centre) / kPagePositions;
    double high = largest, low = least;
    if (method == Method::kCuboid) {
      high = centre + deviation;
      low = centre - deviation;
    } else if (method == Method::kMean) {
      high = low = sum / kPagePositions;
    }
    out.score += q[d] > 0 ? q[d] * high : q[d] * low;
    out.magnitude += std::abs(q[d]) * std::max(std::abs(high), std::abs(low));
  }
  return out;
}

constexpr Method kDigests[] = {Method::kQuest, Method::kCuboid, Method::kMean};

TEST(DigestSelector, ABlocksWeightIsItsLargerPagesScore) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (const KernelTable* kernels : cpu_attn::available_kernels())
    for (const uint32_t head_dim : {64u, 80u, 96u, 128u, 256u})
      for (const Method method : kDigests) {
        SCOPED_TRACE(std::string(kernels->name) + " " + std::to_string(head_dim) + " " +
                     std::to_string(static_cast<int>(method)));
        const auto layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, head_dim);
        Keys keys(layout, 1 + static_cast<uint32_t>(random() % 40), *kernels);
        keys.draw(random);
        const SelectorSource source(method, {layout, 2, keys.n_blocks()}, *kernels);
        const auto selector = source.make();
        selector->open_blocks(keys.n_blocks());
        observe_all(*selector, 1, keys);
        const auto n_queries = static_cast<uint32_t>(1 + random() % 9);
        const auto q = drawn_queries(n_queries, head_dim, random);
        const auto weights = estimates(*selector, 1, q, n_queries);
        for (uint32_t query = 0; query < n_queries; ++query)
          for (uint32_t block = 0; block < keys.n_blocks(); ++block) {
            const float* of = q.data() + uint64_t{query} * head_dim;
            const auto first = page_score(method, keys, block * kBlockPositions, of, head_dim);
            const auto second =
                page_score(method, keys, block * kBlockPositions + kPagePositions, of, head_dim);
            // Two factors of 8 bits, and a sum of 2 * head_dim terms in f32.
            const double bound = std::max(first.magnitude, second.magnitude) *
                                 (0x1p-7 + 0x1p-16 + 2.0 * head_dim * 0x1p-23);
            ASSERT_NEAR(weights[uint64_t{query} * keys.n_blocks() + block],
                        std::max(first.score, second.score), bound);
          }
      }
}

TEST(DigestSelector, QuestsBoundIsNoLessThanAnyKeysScore) {
  std::mt19937_64 random(3);
  const KernelTable& kernels = *cpu_attn::available_kernels().back();
  const auto layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, 64);
  Keys keys(layout, 64, kernels);
  keys.draw(random);
  const SelectorSource source(Method::kQuest, {layout, 1, 64}, kernels);
  const auto selector = source.make();
  selector->open_blocks(64);
  observe_all(*selector, 0, keys);
  const auto q = drawn_queries(1, 64, random);
  const auto weights = estimates(*selector, 0, q, 1);
  for (uint32_t pos = 0; pos < 64 * kBlockPositions; ++pos) {
    double magnitude = 0;
    for (uint32_t d = 0; d < 64; ++d) magnitude += std::abs(q[d]) * 16;  // no key is larger
    ASSERT_GE(weights[pos / kBlockPositions], keys.score(q.data(), pos) - magnitude * 0x1p-7);
  }
}

TEST(DigestSelector, KeysThatAreNotFiniteAreAlwaysChosen) {
  const KernelTable& kernels = *cpu_attn::available_kernels().back();
  const auto layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, 64);
  for (const Method method : {Method::kQuest, Method::kCuboid, Method::kMean, Method::kOracle})
    for (const float wild : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
      Keys keys(layout, 9, kernels);
      std::mt19937_64 random(4);
      keys.draw(random);
      keys.key(5 * kBlockPositions + 20)[7] = wild;
      keys.store();
      const SelectorSource source(method, {layout, 1, 9}, kernels);
      const auto selector = source.make();
      selector->open_blocks(9);
      observe_all(*selector, 0, keys);
      const auto weights = estimates(*selector, 0, drawn_queries(2, 64, random), 2);
      for (uint32_t i = 0; i < weights.size(); ++i)
        EXPECT_EQ(std::isinf(weights[i]), i % 9 == 5) << static_cast<int>(method) << " " << i;
    }
}

/// Of a page whose keys are one key, bounds, centre and mean are that key.
TEST(DigestSelector, EqualKeysHaveEqualWeightsNoLargerChannelHides) {
  const KernelTable& kernels = *cpu_attn::available_kernels().back();
  const auto layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, 64);
  std::mt19937_64 random(14);
  const auto key = drawn_queries(1, 64, random);
  Keys keys(layout, 10, kernels);
  for (uint32_t pos = 0; pos < 10 * kBlockPositions; ++pos) {
    std::copy(key.begin(), key.end(), keys.key(pos));
    keys.key(pos)[11] = 3000;  // a channel that is far from the others, as real keys have
  }
  keys.store();
  auto q = drawn_queries(2, 64, random);
  q[11] = q[64 + 11] = 0;
  for (const Method method : {Method::kQuest, Method::kCuboid, Method::kMean, Method::kOracle}) {
    SCOPED_TRACE(static_cast<int>(method));
    const SelectorSource source(method, {layout, 1, 10}, kernels);
    const auto selector = source.make();
    selector->open_blocks(10);
    observe_all(*selector, 0, keys);
    const auto weights = estimates(*selector, 0, q, 2);
    for (uint32_t i = 0; i < weights.size(); ++i) {
      const float* query = q.data() + uint64_t{i / 10} * 64;
      double magnitude = 0;
      for (uint32_t d = 0; d < 64; ++d)
        magnitude += std::abs(double{query[d]} * double{keys.key(0)[d]});
      // Digests score a page by one product, the oracle sums its 32 keys; two roundings to bf16.
      const double of_keys = method == Method::kOracle ? std::log(double{kBlockPositions}) : 0;
      ASSERT_NEAR(weights[i], keys.score(query, 0) + of_keys,
                  magnitude * (0x1p-7 + 0x1p-16 + 128 * 0x1p-23) + 1e-5);
      EXPECT_EQ(weights[i], weights[i / 10 * 10]);
    }
  }
}

TEST(Selector, RowsThatWereSavedAreThoseThatAreMadeAnew) {
  const KernelTable& kernels = *cpu_attn::available_kernels().back();
  const auto layout = KvLayout::make(KvCodec::kQ8_0, KvCodec::kQ8_0, 64);
  std::mt19937_64 random(5);
  Keys keys(layout, 20, kernels);
  keys.draw(random);
  const auto q = drawn_queries(3, 64, random);
  for (const auto& method : method_names()) {
    SCOPED_TRACE(method.name);
    const SelectorSource source(method.method, {layout, 2, 40}, kernels);
    const auto saved = source.make();
    saved->open_blocks(20);
    observe_all(*saved, 0, keys);
    observe_all(*saved, 1, keys);
    const auto loaded = source.make();
    loaded->open_blocks(20);
    std::vector<std::byte> bytes(saved->segment_bytes());
    for (StreamIdx stream = 0; stream < 2; ++stream) {
      uint32_t segment = 0;
      for (; segment < std::min(2u, saved->n_segments(stream)); ++segment) {
        if (bytes.empty()) continue;
        saved->copy_segment(stream, segment, bytes);
        loaded->load_segment(stream, segment, bytes);
      }
      for (uint32_t block = segment * saved->segment_extents() * kExtentBlocks; block < 20; ++block)
        loaded->observe(stream, block, keys.block(block));
    }
    EXPECT_EQ(estimates(*loaded, 1, q, 3), estimates(*saved, 1, q, 3));
  }
}

TEST(Selector, AnEstimateInPiecesIsTheWhole) {
  const KernelTable& kernels = *cpu_attn::available_kernels().back();
  const auto layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, 96);
  std::mt19937_64 random(6);
  Keys keys(layout, 61, kernels);
  keys.draw(random);
  const auto q = drawn_queries(5, 96, random);
  for (const auto& method : method_names()) {
    SCOPED_TRACE(method.name);
    const SelectorSource source(method.method, {layout, 1, 61}, kernels);
    const auto selector = source.make();
    selector->open_blocks(61);
    observe_all(*selector, 0, keys);
    EXPECT_EQ(estimates(*selector, 0, q, 5, 16), estimates(*selector, 0, q, 5));
  }
}

}  // namespace
}  // namespace strata::index
