// Prompts that are read by selected steps of whole chunks: all of it is exact attention, runs of
// rows choose as steps of their own would, and where K and V lie changes no bit.
#include <gtest/gtest.h>

#include <random>

#include "tests/engine/selected_walk.h"

namespace strata::engine {
namespace {

using index::Budget;
using index::Method;
using testing::first_difference;
using testing::is_same;
using testing::LoadedMember;
using testing::Logits;
using testing::Place;
using testing::SelectedSetting;
using testing::SelectedWalk;

constexpr uint32_t kSeed = 20261126;

/// One selected step of all these tokens.
Logits chunk_of(SelectedWalk& walk, Sequence& sequence, std::span<const int32_t> tokens) {
  std::vector<StepRow> rows;
  for (const int32_t token : tokens) rows.push_back({&sequence, token, true});
  return walk.step(rows, Attention::kSelected);
}

/// Reads n_exact tokens exactly and the others by selected chunks.
Logits read_sparsely(SelectedWalk& walk, std::span<const int32_t> text, uint32_t n_exact,
                     uint32_t chunk_rows) {
  Sequence sequence = walk.sequence();
  Logits logits = walk.feed(sequence, text.first(n_exact));
  for (auto rest = text.subspan(n_exact); !rest.empty();) {
    const auto n = std::min<size_t>(rest.size(), chunk_rows);
    for (auto& row : chunk_of(walk, sequence, rest.first(n))) logits.push_back(std::move(row));
    rest = rest.subspan(n);
  }
  return logits;
}

TEST(SparsePrefill, ABudgetOfEverythingIsExactAttention) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (const makers::ZooMember* listed : testing::walked_members(random)) {
    SCOPED_TRACE(listed->model.name);
    const LoadedMember member(listed->model.name);
    const auto text =
        member.text(300 + static_cast<uint32_t>(random() % 300), static_cast<uint32_t>(random()));
    const auto n_exact = 1 + static_cast<uint32_t>(random() % 100);
    SelectedSetting setting{.method = Method::kMean, .budget = {Budget::Kind::kShare, 1.0}};
    setting.chunk_rows = 200;
    const Logits expected = SelectedWalk(member.model, setting).feed_all(text);
    SelectedWalk walk(member.model, setting);
    const auto chunk_rows = 97 + static_cast<uint32_t>(random() % 104);
    EXPECT_EQ(first_difference(read_sparsely(walk, text, n_exact, chunk_rows), expected),
              std::nullopt);
  }
}

/// The first run of a chunk knows nothing of the others; the second one attends what a step of its
/// own would, as long as no block is filled in between.
TEST(SparsePrefill, RunsOfAChunkChooseAsStepsOfTheirOwnWould) {
  const LoadedMember member("llama-k-quantised");  // four query heads to a KV head: short runs
  const auto text = member.text(700, kSeed);
  for (const auto& method : index::method_names()) {
    SCOPED_TRACE(method.name);
    if (method.method == Method::kPq && member.model.shape().head_dim % kPqSubspaces != 0) continue;
    SelectedSetting setting{.method = method.method, .budget = {Budget::Kind::kTokens, 256}};
    setting.chunk_rows = 64;
    setting.n_sequences = 2;
    SelectedWalk walk(member.model, setting);
    const uint32_t run = walk.walk().selected_rows_max();
    ASSERT_LT(run, kBlockPositions);
    const auto rest = std::span(text).subspan(640, run + 5);
    Sequence held = walk.sequence();
    walk.feed(held, std::span(text).first(640));
    Sequence other = held.fork();
    const Logits together = chunk_of(walk, held, rest);
    Logits apart = chunk_of(walk, other, rest.first(run));
    for (auto& row : chunk_of(walk, other, rest.subspan(run))) apart.push_back(std::move(row));
    EXPECT_EQ(first_difference(together, apart), std::nullopt);
    const SelectionCounts& counts = walk.walk().selection_counts();
    EXPECT_LT(counts.attended_blocks, counts.blocks / 2);
  }
}

TEST(SparsePrefill, WhereKAndVLieChangesNoBit) {
  const LoadedMember member("llama3");
  const auto text = member.text(1400, kSeed);
  SelectedSetting floor{.method = Method::kRecent, .budget = {Budget::Kind::kTokens, 480}};
  floor.chunk_rows = 128;
  SelectedWalk by_recency(member.model, floor);
  const Logits recent = read_sparsely(by_recency, text, 700, 128);
  for (const Method method : {Method::kQuest, Method::kRabitqTail}) {
    SelectedSetting setting{.method = method, .budget = floor.budget};
    setting.chunk_rows = 128;
    SelectedWalk here(member.model, setting);
    const Logits expected = read_sparsely(here, text, 700, 128);
    // Rows of the second run of a chunk, not the first alone, retrieve.
    const uint32_t second = 700 + here.walk().selected_rows_max();
    ASSERT_LT(second, 700 + 127u);
    EXPECT_FALSE(
        is_same(std::span(expected).subspan(second, 1), std::span(recent).subspan(second, 1)));
    setting.place = Place::kSimulated;
    SelectedWalk away(member.model, setting);
    EXPECT_EQ(first_difference(read_sparsely(away, text, 700, 128), expected), std::nullopt);
    EXPECT_GT(away.walk().selection_counts().missing_blocks, 0u);
    setting.n_threads = 3;
    SelectedWalk others(member.model, setting);
    EXPECT_EQ(first_difference(read_sparsely(others, text, 700, 128), expected), std::nullopt);
  }
}

TEST(SparsePrefill, SequencesOfOneStepDoNotSeeEachOther) {
  const LoadedMember member("llama3");
  const auto text = member.text(500, kSeed);
  SelectedSetting setting{.method = Method::kQuest, .budget = {Budget::Kind::kTokens, 320}};
  setting.chunk_rows = 150;
  setting.n_sequences = 3;
  SelectedWalk walk(member.model, setting);
  Sequence a = walk.sequence();
  walk.feed(a, std::span(text).first(300));
  Sequence b = a.fork(), alone = a.fork();
  const Logits expected = chunk_of(walk, alone, std::span(text).subspan(300, 70));
  EXPECT_LT(walk.walk().selection_counts().attended_blocks, walk.walk().selection_counts().blocks);
  EXPECT_GT(walk.walk().selection_counts().attended_share(), 0.6);  // more than is always attended
  std::vector<StepRow> rows;
  for (const int32_t token : std::span(text).subspan(400, 60)) rows.push_back({&a, token, false});
  for (const int32_t token : std::span(text).subspan(300, 70)) rows.push_back({&b, token, true});
  EXPECT_TRUE(is_same(walk.step(rows, Attention::kSelected), expected));
  EXPECT_EQ(a.n_pos(), 360u);
  EXPECT_EQ(b.n_pos(), 370u);
  EXPECT_EQ(b.n_exact(), 300u);
}

/// A chunk's own rows take nothing of what a run may attend before it.
TEST(SparsePrefill, EveryRunOfAChunkMayAttendAsMuch) {
  const LoadedMember member("llama3");
  const auto text = member.text(1200, kSeed);
  SelectedSetting setting{.method = Method::kQuest, .budget = {Budget::Kind::kTokens, 320}};
  setting.chunk_rows = 192;
  SelectedWalk walk(member.model, setting);
  Sequence sequence = walk.sequence();
  walk.feed(sequence, std::span(text).first(960));
  chunk_of(walk, sequence, std::span(text).subspan(960, 192));
  const SelectionCounts& counts = walk.walk().selection_counts();
  const uint32_t n_runs = 192 / walk.walk().selected_rows_max();
  ASSERT_EQ(n_runs * walk.walk().selected_rows_max(), 192u);
  const uint64_t n_choices = counts.blocks / (960 / kBlockPositions);
  // Ten blocks less those that the run's own rows stand for.
  const uint64_t own = blocks_for(walk.walk().selected_rows_max());
  EXPECT_EQ(counts.attended_blocks, n_choices * (320 / kBlockPositions - own));
}

TEST(SparsePrefill, TheMemoryOfItsListsIsBounded) {
  const LoadedMember member("llama3");
  const ModelShape& shape = member.model.shape();
  const index::Rule rule{.budget = {Budget::Kind::kTokens, 2048}};
  const auto bytes = [&](uint64_t n_ctx, const index::Rule& of, uint32_t chunk_rows) {
    return sparse_selection_bytes(shape, n_ctx, Method::kQuest, of, chunk_rows);
  };
  EXPECT_EQ(bytes(1 << 20, rule, 1), 0u);
  EXPECT_EQ(bytes(1 << 20, rule, 512), bytes(1 << 17, rule, 512));  // tokens are tokens
  EXPECT_GT(bytes(1 << 20, {.budget = {Budget::Kind::kShare, 0.1}}, 512),
            bytes(1 << 20, rule, 512));
  EXPECT_GT(bytes(1 << 20, rule, 1024), bytes(1 << 20, rule, 512));
  KvContext context{.n_ctx = 1 << 17, .method = Method::kQuest};
  const uint64_t exact = index_dram_bytes(shape, context);
  context.sparse = rule;
  EXPECT_EQ(index_dram_bytes(shape, context), exact + bytes(1 << 17, rule, context.chunk_rows));
}

TEST(SparsePrefill, BeginsWhereItIsToldTo) {
  const LoadedMember member("llama3");
  const auto text = member.text(600, kSeed);
  SelectedSetting setting{.method = Method::kQuest, .budget = {Budget::Kind::kTokens, 128}};
  setting.chunk_rows = 100;
  SelectedWalk walk(member.model, setting);
  Sequence sequence = walk.sequence();
  std::vector<uint64_t> ends;
  prefill_sparsely(walk.walk(), sequence, text, 100, 250, [&](uint64_t done, uint64_t) {
    ends.push_back(done);
    return true;
  });
  EXPECT_EQ(ends, (std::vector<uint64_t>{100, 200, 250, 350, 450, 550, 600}));
  EXPECT_EQ(sequence.n_exact(), 250u);
  EXPECT_EQ(walk.walk().selection_counts().steps, 4u);
}

}  // namespace
}  // namespace strata::engine
