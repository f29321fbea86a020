// No allocation per token where blocks are chosen: lists, weights and sums of a tail are reserved.
#include <gtest/gtest.h>

#include <vector>

#include "cpu_attn/kernels.h"
#include "engine/context_size.h"
#include "index/method.h"
#include "tests/allocation/counted_allocations.h"
#include "tests/engine/tiny_engine.h"

namespace strata::engine {
namespace {

constexpr uint32_t kContext = 4096;
constexpr uint32_t kPrompt = 2000;
constexpr uint32_t kChunk = 16;

void decode(Walk& walk, Sequence& sequence, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) {
    const StepRow row{&sequence, static_cast<int32_t>(i % 32), true};
    walk.step({&row, 1}, Attention::kSelected);
  }
}

/// 100 steps cross three borders of blocks, whose rows are made meanwhile.
TEST(SelectedAllocation, StepsThatChooseAllocateNothing) {
  testing::SmallModel small =
      testing::make_small_model({.vocab_size = 32, .n_ctx_train = kContext});
  testing::draw_weights(small, 3);
  const testing::TinyEngine loaded(small);
  const Model& model = loaded.model();
  for (const index::Method method :
       {index::Method::kQuest, index::Method::kRabitq, index::Method::kRabitqTail,
        index::Method::kCluster, index::Method::kClusterTail, index::Method::kSparq}) {
    KvCacheOptions kv;
    const index::SelectorSource selectors(
        method, index_shape(model.shape(), kv.k_codec, kv.v_codec, kContext),
        cpu_attn::choose_kernels(""));
    kv.chunk_rows = kChunk;
    kv.n_ctx = kContext;
    kv.budget_bytes = kv_bytes_for_context(model.shape(), kv.k_codec, kv.v_codec, kContext, kChunk);
    kv.selectors = &selectors;
    KvCache cache(model.shape(), kv);
    ThreadPool pool(2);
    Walk walk(model, cache, cpu_attn::choose_kernels(""), pool, kChunk);
    walk.select_by({.budget = {index::Budget::Kind::kTokens, 512}}, kContext);
    Sequence sequence = cache.make_sequence();
    prefill(walk, sequence, std::vector<int32_t>(kPrompt, 5), kChunk);
    const uint64_t before = strata::testing::n_allocations();
    decode(walk, sequence, 100);
    EXPECT_EQ(strata::testing::n_allocations() - before, 0u) << static_cast<int>(method);
    const SelectionCounts& counts = walk.selection_counts();
    EXPECT_LT(counts.attended_blocks, counts.blocks / 2);
  }
}

}  // namespace
}  // namespace strata::engine
