#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "cpu_attn/kernels.h"
#include "index/choose.h"

namespace strata::index {
namespace {

const KernelTable& kernels() { return *cpu_attn::available_kernels().back(); }

/// Weights of n_queries over n_blocks, drawn as normal values times `spread`.
std::vector<float> drawn_weights(uint32_t n_queries, uint32_t n_blocks, float spread,
                                 std::mt19937_64& random) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> weights(uint64_t{n_queries} * n_blocks);
  for (float& weight : weights) weight = normal(random);
  return weights;
}

/// Each query's softmax, summed (or the largest taken), in double.
std::vector<double> pooled(std::span<const float> weights, uint32_t n_queries, uint32_t n_blocks,
                           Pool pool) {
  std::vector<double> shares(n_blocks, 0);
  for (uint32_t query = 0; query < n_queries; ++query) {
    const auto row = weights.subspan(uint64_t{query} * n_blocks, n_blocks);
    const double top = *std::ranges::max_element(row);
    double sum = 0;
    for (const float weight : row) sum += std::exp(weight - top);
    for (uint32_t block = 0; block < n_blocks; ++block) {
      const double share = std::exp(row[block] - top) / sum;
      shares[block] = pool == Pool::kSum ? shares[block] + share : std::max(shares[block], share);
    }
  }
  return shares;
}

ChooseArgs args_of(std::span<const float> weights, uint32_t n_queries, uint32_t n_blocks,
                   uint32_t n_open) {
  return {.log_weights = weights,
          .weight_stride = n_blocks,
          .n_queries = n_queries,
          .n_blocks = n_blocks,
          .n_positions = n_blocks * kBlockPositions + n_open};
}

std::vector<uint32_t> always(const Rule& rule, uint32_t n_blocks) {
  std::vector<uint32_t> blocks;
  for (uint32_t block = 0; block < n_blocks; ++block)
    if (block < rule.n_sink_blocks || block + rule.n_window_blocks >= n_blocks)
      blocks.push_back(block);
  return blocks;
}

TEST(Chooser, ABudgetOfTokensTakesTheLargestPooledShares) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (uint32_t round = 0; round < 200; ++round) {
    const auto n_blocks = static_cast<uint32_t>(1 + random() % 700);
    const auto n_queries = static_cast<uint32_t>(1 + random() % 9);
    const auto n_open = static_cast<uint32_t>(1 + random() % 40);
    Rule rule;
    rule.pool = random() % 2 == 0 ? Pool::kSum : Pool::kMax;
    rule.budget = {Budget::Kind::kTokens, static_cast<double>(random() % (n_blocks * 40))};
    const auto weights =
        drawn_weights(n_queries, n_blocks, 1.0f + static_cast<float>(random() % 8), random);
    Chooser chooser(kernels(), rule);
    const Choice& choice = chooser.choose(args_of(weights, n_queries, n_blocks, n_open));
    ASSERT_TRUE(std::ranges::is_sorted(choice.blocks));
    ASSERT_EQ(std::ranges::adjacent_find(choice.blocks), choice.blocks.end());
    const auto fixed = always(rule, n_blocks);
    ASSERT_TRUE(std::ranges::includes(choice.blocks, fixed));
    // No more positions than asked for, and no fewer than fit.
    const double positions = static_cast<double>(choice.blocks.size()) * kBlockPositions + n_open;
    if (choice.blocks.size() > fixed.size()) {
      ASSERT_LE(positions, rule.budget.value);
    }
    if (choice.blocks.size() < n_blocks) {
      ASSERT_GT(positions + kBlockPositions, rule.budget.value);
    }
    const auto shares = pooled(weights, n_queries, n_blocks, rule.pool);
    double least = 1e9, largest = 0;
    for (uint32_t block = 0; block < n_blocks; ++block) {
      if (std::ranges::binary_search(fixed, block)) continue;
      if (std::ranges::binary_search(choice.blocks, block))
        least = std::min(least, shares[block]);
      else
        largest = std::max(largest, shares[block]);
    }
    ASSERT_GE(least, largest * (1 - 1e-5));
  }
}

TEST(Chooser, AShareOfOneTakesEverything) {
  std::mt19937_64 random(1);
  for (const uint32_t n_blocks : {1u, 5u, 6u, 100u}) {
    const auto weights = drawn_weights(3, n_blocks, 3, random);
    Chooser chooser(kernels(), {.budget = {Budget::Kind::kShare, 1.0}});
    const Choice& choice = chooser.choose(args_of(weights, 3, n_blocks, 17));
    EXPECT_EQ(choice.blocks.size(), n_blocks);
    EXPECT_NEAR(choice.estimated_share, 1.0, 1e-6);
  }
}

TEST(Chooser, AMassTakesNoMoreBlocksThanItNeeds) {
  std::mt19937_64 random(2);
  for (uint32_t round = 0; round < 50; ++round) {
    const uint32_t n_blocks = 300;
    const auto weights = drawn_weights(4, n_blocks, 4, random);
    const Rule rule{.budget = {Budget::Kind::kMass, 0.9}};
    Chooser chooser(kernels(), rule);
    const Choice& choice = chooser.choose(args_of(weights, 4, n_blocks, 1));
    ASSERT_GE(choice.estimated_share, 0.9 - 1e-6);
    const auto shares = pooled(weights, 4, n_blocks, Pool::kSum);
    double least = 4;
    const auto fixed = always(rule, n_blocks);
    for (const uint32_t block : choice.blocks)
      if (!std::ranges::binary_search(fixed, block)) least = std::min(least, shares[block]);
    if (choice.blocks.size() > fixed.size()) {
      ASSERT_LT(choice.estimated_share - least / 4, 0.9 + 1e-6);
    }
  }
}

TEST(Chooser, AGapTakesWhatIsNearTheLargestOfSomeQuery) {
  std::vector<float> weights(2 * 20, 0.0f);
  weights[7] = 10;        // query 0
  weights[8] = 6.5f;      // within 4 of it
  weights[9] = 5.5f;      // not
  weights[20 + 12] = 30;  // query 1
  weights[20 + 9] = 25;
  Chooser chooser(kernels(), {.budget = {Budget::Kind::kLogGap, 4.0}, .n_window_blocks = 1});
  const Choice& choice = chooser.choose(args_of(weights, 2, 20, 1));
  EXPECT_EQ(choice.blocks, (std::vector<uint32_t>{0, 7, 8, 12, 19}));
}

TEST(Chooser, AnInfiniteWeightIsAlwaysChosen) {
  std::vector<float> weights(50, 5.0f);
  weights[33] = std::numeric_limits<float>::infinity();
  Chooser chooser(kernels(), {.budget = {Budget::Kind::kTokens, 6 * 32 + 1}});
  const Choice& choice = chooser.choose(args_of(weights, 1, 50, 1));
  EXPECT_EQ(choice.blocks, (std::vector<uint32_t>{0, 33, 46, 47, 48, 49}));
}

TEST(Chooser, EqualWeightsGoToTheEarlierBlocks) {
  const std::vector<float> weights(50, 1.0f);
  Chooser chooser(kernels(), {.budget = {Budget::Kind::kTokens, 8 * 32 + 1}});
  const Choice& choice = chooser.choose(args_of(weights, 1, 50, 1));
  EXPECT_EQ(choice.blocks, (std::vector<uint32_t>{0, 1, 2, 3, 46, 47, 48, 49}));
}

TEST(Chooser, OfNearlyEqualWeightsTheLargestAreChosenAndOfEqualOnesTheEarlier) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (uint32_t round = 0; round < 300; ++round) {
    const auto n_blocks = static_cast<uint32_t>(6 + random() % 900);
    // Few levels, so that many are equal, and so near each other that most share their first bits.
    const uint64_t n_levels = 1 + random() % 60;
    std::vector<float> weights(n_blocks);
    for (float& weight : weights) weight = static_cast<float>(random() % n_levels) * 1e-3f;
    const auto n_chosen = static_cast<uint32_t>(random() % (n_blocks - 4));
    const Rule rule{.budget = {Budget::Kind::kTokens, (5.0 + n_chosen) * kBlockPositions + 1}};
    std::vector<uint32_t> order(n_blocks - 5);  // of what is neither first nor in the window
    std::iota(order.begin(), order.end(), 1u);
    std::ranges::stable_sort(order, std::greater<>(), [&](uint32_t b) { return weights[b]; });
    std::vector<uint32_t> wanted = always(rule, n_blocks);
    wanted.insert(wanted.end(), order.begin(), order.begin() + n_chosen);
    std::ranges::sort(wanted);
    Chooser chooser(kernels(), rule);
    ASSERT_EQ(chooser.choose(args_of(weights, 1, n_blocks, 1)).blocks, wanted) << n_levels;
  }
}

TEST(Chooser, ResidentBlocksStandInWithinTheTolerance) {
  std::vector<float> weights(64, -20.0f);
  weights[10] = 2.0f;   // absent, chosen
  weights[11] = 1.0f;   // absent, chosen
  weights[12] = 0.95f;  // resident: nearly as good as 11
  std::vector<uint64_t> resident = {1ull << 12};
  ChooseArgs args = args_of(weights, 1, 64, 1);
  args.resident = resident;
  Rule rule{.budget = {Budget::Kind::kTokens, 7 * 32 + 1}};
  EXPECT_EQ(Chooser(kernels(), rule).choose(args).blocks,
            (std::vector<uint32_t>{0, 10, 11, 60, 61, 62, 63}));
  rule.residency_tolerance = 0.05;
  EXPECT_EQ(Chooser(kernels(), rule).choose(args).blocks,
            (std::vector<uint32_t>{0, 10, 12, 60, 61, 62, 63}));
}

/// What is given up stays within the tolerance; no exchange is left that would fit in as well; and
/// where residency has no say, the choice is that of the weights alone.
TEST(Chooser, ExchangesAreTheCheapestAndNoneThatFitsIsLeft) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  uint64_t n_exchanged = 0;
  for (uint32_t round = 0; round < 50; ++round) {
    const uint32_t n_blocks = 100 + static_cast<uint32_t>(random() % 400);
    const auto weights = drawn_weights(3, n_blocks, 2.0f, random);
    const auto shares = pooled(weights, 3, n_blocks, Pool::kSum);
    std::vector<uint64_t> resident(n_blocks / 64 + 1);
    for (uint64_t& bits : resident) bits = random() & random();  // a quarter of them
    const auto is_resident = [&](uint32_t block) {
      return (resident[block / 64] >> block % 64 & 1) != 0;
    };
    Rule rule{.budget = {Budget::Kind::kShare, 0.2}};
    ChooseArgs args = args_of(weights, 3, n_blocks, 1);
    const auto best = Chooser(kernels(), rule).choose(args).blocks;
    rule.residency_tolerance = 0.02;
    EXPECT_EQ(Chooser(kernels(), rule).choose(args).blocks, best);
    const std::vector<uint64_t> everything(resident.size(), UINT64_MAX);
    args.resident = everything;
    EXPECT_EQ(Chooser(kernels(), rule).choose(args).blocks, best);
    args.resident = resident;
    const auto chosen = Chooser(kernels(), rule).choose(args).blocks;
    ASSERT_EQ(chosen.size(), best.size());
    const auto fixed = always(rule, n_blocks);
    const auto weight_of = [&](std::span<const uint32_t> blocks) {
      double sum = 0;
      for (const uint32_t block : blocks)
        if (!std::ranges::binary_search(fixed, block)) sum += shares[block];
      return sum;
    };
    const double left = rule.residency_tolerance * weight_of(best) -  // to give up
                        (weight_of(best) - weight_of(chosen));
    constexpr double kRounding = 1e-5;  // shares are pooled in float
    EXPECT_GE(left, -kRounding);
    double cheapest_out = 10, best_in = 0;
    for (uint32_t block = 0; block < n_blocks; ++block) {
      if (std::ranges::binary_search(fixed, block)) continue;
      const bool is_chosen = std::ranges::binary_search(chosen, block);
      if (is_chosen && !is_resident(block)) cheapest_out = std::min(cheapest_out, shares[block]);
      if (!is_chosen && is_resident(block)) best_in = std::max(best_in, shares[block]);
      n_exchanged += is_chosen && !std::ranges::binary_search(best, block) ? 1u : 0u;
    }
    EXPECT_GT(cheapest_out - best_in, left - kRounding);
  }
  EXPECT_GT(n_exchanged, 0u);
}

}  // namespace
}  // namespace strata::index
