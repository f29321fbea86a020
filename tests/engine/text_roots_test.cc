// Roots of texts: owners and ways of reading do not find each other's.
#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "engine/text_roots.h"

namespace strata::engine {
namespace {

SparseReading reading() {
  return {.method = index::Method::kRabitq,
          .rule = {.budget = {index::Budget::Kind::kTokens, 2048}},
          .from = 8192,
          .chunk_rows = 512};
}

TEST(TextRoots, OfOwnersDiffer) {
  EXPECT_EQ(prefix_root(""), tiers::Hash128{});
  EXPECT_EQ(prefix_root("a"), prefix_root("a"));
  EXPECT_NE(prefix_root("a"), prefix_root("b"));
  EXPECT_NE(prefix_root("a"), tiers::Hash128{});
}

TEST(TextRoots, OfWaysOfReadingDifferInWhateverKAndVFollowFrom) {
  using index::Budget;
  using Change = std::function<void(SparseReading&)>;
  const std::vector<Change> changes = {
      [](SparseReading& of) { of.method = index::Method::kRabitqTail; },
      [](SparseReading& of) { of.rule.budget.value = 4096; },
      [](SparseReading& of) { of.rule.budget.kind = Budget::Kind::kShare; },
      [](SparseReading& of) { of.rule.pool = index::Pool::kMax; },
      [](SparseReading& of) { of.rule.n_sink_blocks = 2; },
      [](SparseReading& of) { of.rule.n_window_blocks = 2; },
      [](SparseReading& of) { of.rule.residency_tolerance = 0.01; },
      [](SparseReading& of) { of.rule.window_share = 0.5; },
      [](SparseReading& of) { of.rule.layers = {index::LayerMode::kDense}; },
      [](SparseReading& of) {
        of.rule.layers = {index::LayerMode::kIndex, index::LayerMode::kDense};
      },
      [](SparseReading& of) { of.from = 4096; },
      [](SparseReading& of) { of.chunk_rows = 256; },
  };
  std::vector<tiers::Hash128> roots = {{}, prefix_root("a"), sparse_root(reading())};
  EXPECT_EQ(sparse_root(reading()), roots.back());
  for (const Change& change : changes) {
    SparseReading other = reading();
    change(other);
    roots.push_back(sparse_root(other));
  }
  for (size_t i = 0; i < roots.size(); ++i)
    for (size_t j = 0; j < i; ++j) EXPECT_NE(roots[i], roots[j]) << i << ", " << j;
}

}  // namespace
}  // namespace strata::engine
