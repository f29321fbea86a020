// tests/index/rotated_fixture.h - what methods of rotated keys estimate, against the keys
// themselves.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>

#include "cpu_attn/index.h"
#include "tests/index/pq_fixture.h"

namespace strata::index::testing {

/// Of ln(sum exp) as the kernels take it, and f32's rounding.
inline constexpr double kByBitsOfFloats = cpu_attn::kWeightTolerance + 1e-4;

/// ln(sum exp(q . k)) of a block, and how far an estimate may be from it: ln(sum exp) moves no
/// further than the score that moves furthest. A score moves by q . (k - what stands for k) and by
/// the rounding of the rotated query, half a step per value.
struct Wanted {
  double score = 0;
  double bound = 0;
  bool is_open = false;  // the bound is not known
};

/// A step of the rounding of a rotated query.
inline double query_step(std::span<const double> query) {
  double step = 0;
  for (const double x : query) step = std::max(step, std::abs(x) / 127);
  return step;
}

/// Sums exponentials without overflow.
class LogSum {
 public:
  void add(double score) {
    const double now = std::max(top_, score);
    sum_ = sum_ * std::exp(top_ - now) + std::exp(score - now);
    top_ = now;
  }
  double value() const { return top_ + std::log(sum_); }

 private:
  double sum_ = 0, top_ = -std::numeric_limits<double>::infinity();
};

/// Every estimate lies within the bound that wanted(selector, keys, block, q, head_dim) gives, over
/// kernels, codecs, head_dims and n_least to n_least + 7 blocks; and cut in pieces it is the same.
template <class WantedOf>
void expect_weights_within_bounds(Method method, uint32_t n_least, const WantedOf& wanted) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  double worst = 0;
  for (const KernelTable* table : cpu_attn::available_kernels())
    for (const KvCodec codec : {KvCodec::kF16, KvCodec::kQ8_0})
      for (const uint32_t head_dim : {64u, 80u, 96u, 128u, 256u}) {
        if (codec == KvCodec::kQ8_0 && head_dim % 32 != 0) continue;
        SCOPED_TRACE(std::string(table->name) + " " + std::to_string(head_dim));
        const auto layout = KvLayout::make(codec, codec, head_dim);
        const auto n_blocks = static_cast<uint32_t>(n_least + random() % 8);
        Keys keys = clustered_keys(layout, n_blocks, *table, random());
        const auto selector = SelectorSource(method, {layout, 1, n_blocks}, *table).make();
        observe_range(*selector, 0, keys, 0, n_blocks);
        const auto n_queries = static_cast<uint32_t>(1 + random() % 8);
        const auto q = drawn_queries(n_queries, head_dim, random);
        const auto weights = estimates(*selector, 0, q, n_queries);
        for (const uint32_t query : {0u, n_queries - 1})
          for (uint32_t block = 0; block < n_blocks; block += 3) {
            const Wanted want =
                wanted(*selector, keys, block, q.data() + size_t{query} * head_dim, head_dim);
            if (want.is_open) continue;
            const double error =
                std::abs(double{weights[size_t{query} * n_blocks + block]} - want.score);
            ASSERT_LE(error, want.bound) << block;
            worst = std::max(worst, error / want.bound);
          }
        EXPECT_EQ(weights, estimates(*selector, 0, q, n_queries, 8));  // in pieces
      }
  EXPECT_GT(worst, 0.01);  // a bound that means something
}

/// Of blocks whose keys are all one, with a channel that is far from the others, as real keys have.
template <class WantedOf>
void expect_equal_keys_have_equal_scores(Method method, const WantedOf& wanted) {
  constexpr uint32_t kHeadDim = 64, kBlocks = 10, kFarChannel = 11;
  std::mt19937_64 random(14);
  const auto layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, kHeadDim);
  const KernelTable& table = cpu_attn::choose_kernels();
  Keys keys(layout, kBlocks, table);
  const auto key = drawn_queries(1, kHeadDim, random);
  for (uint32_t pos = 0; pos < kBlocks * kBlockPositions; ++pos) {
    std::copy(key.begin(), key.end(), keys.key(pos));
    keys.key(pos)[kFarChannel] = 300;
  }
  keys.store();
  const auto selector = SelectorSource(method, {layout, 1, kBlocks}, table).make();
  observe_range(*selector, 0, keys, 0, kBlocks);
  auto q = drawn_queries(1, kHeadDim, random);
  q[kFarChannel] = 0;
  const auto weights = estimates(*selector, 0, q, 1);
  const Wanted want = wanted(*selector, keys, 0, q.data(), kHeadDim);
  EXPECT_NEAR(want.score, keys.score(q.data(), 0) + std::log(double{kBlockPositions}), 1e-3);
  for (const float weight : weights) {
    EXPECT_EQ(weight, weights[0]);
    EXPECT_NEAR(weight, want.score, want.bound);
  }
}

}  // namespace strata::index::testing
