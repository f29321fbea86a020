// What papers attend, and that the choice follows it.
#include "index/paper_rule.h"

#include <gtest/gtest.h>

#include <numeric>

#include "base/error.h"
#include "cpu_attn/kernels.h"

namespace strata::index {
namespace {

/// The blocks that a method's paper attends of a context in which every block weighs the same.
std::vector<uint32_t> chosen(Method method, uint32_t n_blocks) {
  Chooser chooser(cpu_attn::choose_kernels(), paper_rule(method));
  const std::vector<float> weights(n_blocks, 0.0f);
  return chooser
      .choose({.log_weights = weights,
               .weight_stride = n_blocks,
               .n_queries = 1,
               .n_blocks = n_blocks,
               .n_positions = n_blocks * kBlockPositions})
      .blocks;
}

/// How many of the blocks stand at the end without a gap.
uint32_t n_last(const std::vector<uint32_t>& blocks, uint32_t n_blocks) {
  uint32_t n = 0;
  while (n < blocks.size() && blocks[blocks.size() - 1 - n] == n_blocks - 1 - n) ++n;
  return n;
}

TEST(PaperRule, AttendsWhatThePapersDo) {
  constexpr uint32_t kBlocks = 320;  // 10,240 positions
  struct Case {
    Method method;
    uint32_t n_attended, n_last;
  };
  for (const Case& of :
       {Case{Method::kQuest, 1024 / 32, 1}, Case{Method::kCuboid, 2048 / 32, 2},
        Case{Method::kMean, 2048 / 32, 1}, Case{Method::kPq, 1024 / 32, 512 / 32},
        Case{Method::kRabitq, 420 / 32, 256 / 32}, Case{Method::kCluster, 184 / 32, 2},
        Case{Method::kSparq, 128 / 32, 1}, Case{Method::kRecent, 1024 / 32, 1024 / 32 - 1}}) {
    SCOPED_TRACE(rows_kind(of.method));
    const auto blocks = chosen(of.method, kBlocks);
    EXPECT_EQ(blocks.size(), of.n_attended);
    EXPECT_EQ(n_last(blocks, kBlocks), of.n_last);
    EXPECT_EQ(blocks.front(), 0u);  // of equal ones the earlier, where no sink is always attended
  }
  EXPECT_EQ(paper_rule(Method::kMean).pool, Pool::kMax);
  for (const Method method : {Method::kQuest, Method::kCuboid}) {
    EXPECT_EQ(paper_rule(method).mode_of(1), LayerMode::kDense);
    EXPECT_EQ(paper_rule(method).mode_of(2), LayerMode::kIndex);
  }
}

TEST(PaperRule, EveryMethodHasOneButTheOracle) {
  for (const MethodName& of : method_names()) {
    if (of.method == Method::kOracle)
      EXPECT_THROW(paper_rule(of.method), Error);
    else
      EXPECT_GT(paper_rule(of.method).budget.value, 0) << of.name;
  }
}

/// The window's share is of the budget, whatever the budget is of; and never less than its blocks.
TEST(PaperRule, AWindowMayBeAShareOfTheBudget) {
  Rule rule{.budget = {Budget::Kind::kTokens, 20 * 32}, .n_window_blocks = 3, .window_share = 0.5};
  const auto n_window = [&](uint32_t n_blocks) {
    // Later blocks weigh less, so that those of the window are there as such.
    std::vector<float> weights(n_blocks);
    std::iota(weights.rbegin(), weights.rend(), 0.0f);
    Chooser chooser(cpu_attn::choose_kernels(), rule);
    const auto& blocks = chooser
                             .choose({.log_weights = weights,
                                      .weight_stride = n_blocks,
                                      .n_queries = 1,
                                      .n_blocks = n_blocks,
                                      .n_positions = n_blocks * kBlockPositions})
                             .blocks;
    return n_last(blocks, n_blocks);
  };
  EXPECT_EQ(n_window(100), 10u);
  rule.window_share = 0.05;
  EXPECT_EQ(n_window(100), 3u);
  rule = {.budget = {Budget::Kind::kShare, 0.5}, .n_window_blocks = 3, .window_share = 0.25};
  EXPECT_EQ(n_window(96), 12u);
  rule.budget = {Budget::Kind::kMass, 0.001};
  EXPECT_EQ(n_window(96), 3u);
}

}  // namespace
}  // namespace strata::index
