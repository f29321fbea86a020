// How much of the weight each method finds on keys with clusters and outlier channels.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>

#include "index/choose.h"
#include "tests/index/pq_fixture.h"

namespace strata::index {
namespace {

using namespace testing;

/// Share of the true weight, summed over the queries of the group, in the blocks that a method
/// chooses with a budget of 5 % and no block for free.
double found_mass(Method method, Keys& keys, std::span<const std::vector<float>> groups,
                  uint32_t head_dim, uint32_t n_queries) {
  const KernelTable& kernels = cpu_attn::choose_kernels();
  const uint32_t n_blocks = keys.n_blocks();
  const auto selector = SelectorSource(method, {f16_layout(head_dim), 1, n_blocks}, kernels).make();
  observe_range(*selector, 0, keys, 0, n_blocks);
  Chooser chooser(
      kernels, {.budget = {Budget::Kind::kShare, 0.05}, .n_sink_blocks = 0, .n_window_blocks = 0});
  double found = 0;
  for (const std::vector<float>& q : groups) {
    const auto weights = estimates(*selector, 0, q, n_queries);
    const Choice& choice = chooser.choose({.log_weights = weights,
                                           .weight_stride = n_blocks,
                                           .n_queries = n_queries,
                                           .n_blocks = n_blocks,
                                           .n_positions = n_blocks * kBlockPositions});
    for (uint32_t query = 0; query < n_queries; ++query) {
      std::vector<double> scores;
      scores.reserve(size_t{n_blocks} * kBlockPositions);
      for (uint32_t pos = 0; pos < n_blocks * kBlockPositions; ++pos)
        scores.push_back(keys.score(q.data() + uint64_t{query} * head_dim, pos));
      const double top = std::ranges::max(scores);
      double total = 0, chosen = 0;
      for (double& score : scores) total += score = std::exp(score - top);
      for (const uint32_t block : choice.blocks)
        for (uint32_t i = 0; i < kBlockPositions; ++i)
          chosen += scores[size_t{block} * kBlockPositions + i];
      found += chosen / total / (static_cast<double>(groups.size()) * n_queries);
    }
  }
  return found;
}

TEST(PqRecall, FindsNearlyWhatTheOracleFinds) {
  constexpr std::array kMethods{Method::kOracle, Method::kPq,     Method::kQuest,
                                Method::kCuboid, Method::kMean,   Method::kRecent,
                                Method::kRabitq, Method::kCluster};
  constexpr uint32_t kQueries = 3;
  const uint32_t n_blocks = 32 * kExtentBlocks;
  printf("share of the weight in 5 %% of %u positions, groups of %u queries\n",
         n_blocks * kBlockPositions, kQueries);
  printf("head_dim  oracle      pq   quest  cuboid    mean  recent  rabitq  cluster\n");
  for (const uint32_t head_dim : {64u, 128u}) {
    std::mt19937_64 random(head_dim);
    Keys keys(f16_layout(head_dim), n_blocks, cpu_attn::choose_kernels());
    const ClusteredKeys source(head_dim, random);
    source.draw(keys, 0, n_blocks, random);
    keys.store();
    std::vector<std::vector<float>> groups(8);
    for (auto& group : groups)
      for (uint32_t i = 0; i < kQueries; ++i) {
        const auto q = source.query(random, 2.5f);
        group.insert(group.end(), q.begin(), q.end());
      }
    std::array<double, kMethods.size()> found{};
    for (size_t m = 0; m < kMethods.size(); ++m)
      found[m] = found_mass(kMethods[m], keys, groups, head_dim, kQueries);
    printf("%8u  %6.3f  %6.3f  %6.3f  %6.3f  %6.3f  %6.3f  %6.3f  %6.3f\n", head_dim, found[0],
           found[1], found[2], found[3], found[4], found[5], found[6], found[7]);
    EXPECT_GE(found[1], 0.9 * found[0]);
    EXPECT_GE(found[6], 0.95 * found[0]);
    EXPECT_GE(found[7], 0.6 * found[0]);
    EXPECT_LT(found[5], 0.5 * found[0]) << "a task that any choice solves";
  }
}

}  // namespace
}  // namespace strata::index
