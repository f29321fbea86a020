// Steps that attend what an index chooses: all of it is exact attention, a part of it is found again
// after everything that happens to a sequence.
#include <gtest/gtest.h>

#include <random>

#include "tests/engine/recall_fixture.h"
#include "tests/engine/zoo_fixture.h"

namespace strata::engine {
namespace {

using index::Budget;
using index::Method;
using testing::is_same;
using testing::LoadedMember;
using testing::Logits;
using testing::random_tokens;
using testing::RecallRun;
using testing::RecallSetup;
using testing::WalkSetting;
using testing::ZooWalk;

WalkSetting setting_with(Method method, Budget budget) {
  WalkSetting setting;
  setting.kernels = cpu_attn::available_kernels().back();
  setting.n_threads = 2;
  setting.chunk_rows = 128;
  setting.n_ctx = 2048;
  setting.n_sequences = 2;
  setting.method = method;
  setting.rule.budget = budget;
  return setting;
}

/// Reads the first n_exact tokens exactly and selects for the others.
Logits read_split(ZooWalk& walk, std::span<const int32_t> text, uint32_t n_exact) {
  Sequence sequence = walk.sequence();
  Logits logits = walk.feed(sequence, text.first(n_exact));
  for (auto& row : walk.feed(sequence, text.subspan(n_exact), 0, Attention::kSelected))
    logits.push_back(std::move(row));
  return logits;
}

TEST(Selection, ABudgetOfEverythingIsExactAttention) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (const auto& listed : makers::zoo()) {
    SCOPED_TRACE(listed.model.name);
    const LoadedMember member(listed.model.name);
    const auto text = random_tokens(600 + static_cast<uint32_t>(random() % 400),
                                    listed.model.vocab_size, static_cast<uint32_t>(random()));
    const auto n_exact = static_cast<uint32_t>(random() % text.size());
    WalkSetting exact = setting_with(Method::kRecent, {});
    exact.method.reset();
    const Logits expected = ZooWalk(member.model, exact).feed_all(text);
    for (const auto& method : index::method_names()) {
      SCOPED_TRACE(method.name);
      for (const KernelTable* kernels : {cpu_attn::available_kernels().back()}) {
        WalkSetting setting = setting_with(method.method, {Budget::Kind::kShare, 1.0});
        setting.kernels = kernels;
        ZooWalk walk(member.model, setting);
        ASSERT_TRUE(is_same(read_split(walk, text, n_exact), expected));
        const SelectionCounts& counts = walk.walk().selection_counts();
        EXPECT_EQ(counts.attended_blocks, counts.blocks);
      }
    }
  }
}

}  // namespace
}  // namespace strata::engine
