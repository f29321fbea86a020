// Prompts that are read by selected steps of whole chunks: all of it is exact attention, runs of
// rows choose as steps of their own would, and where K and V lie changes no bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "base/checked_math.h"
#include "base/host_memory.h"
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

constexpr uint32_t kSparseSeed = 20261126;

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

/// Chooses again, by means that are taken here, for every run that it hears of.
class MeansProbe : public AttentionProbe {
 public:
  MeansProbe(KvCache& cache, const index::Rule& rule, uint32_t rows_max)
      : cache_(cache),
        kernels_(*cpu_attn::available_kernels().back()),
        chooser_(kernels_, rule),
        rows_max_(rows_max) {}
  uint32_t n_by_means() const { return n_by_means_; }
  uint32_t n_by_rows() const { return n_by_rows_; }

  void hear(const ProbedHead& head) override {
    const ModelShape& shape = cache_.shape();
    const uint32_t group = shape.layers[head.layer].n_heads / shape.layers[head.layer].n_kv_heads;
    const uint32_t n_rows = head.n_queries / group;
    const uint32_t mean_rows = n_rows > rows_max_ ? kMeanRows : 1;
    ++(mean_rows > 1 ? n_by_means_ : n_by_rows_);
    const uint64_t row_floats = uint64_t{group} * shape.head_dim;
    std::vector<float> means;
    for (uint32_t row = 0; row < n_rows; row += mean_rows)
      for (uint64_t at = 0; at < row_floats; ++at) {
        const uint32_t n = std::min(mean_rows, n_rows - row);
        float sum = head.q[row * row_floats + at];
        for (uint32_t i = 1; i < n; ++i) sum += head.q[(row + i) * row_floats + at];
        means.push_back(sum * (1.0f / static_cast<float>(n)));
      }
    const auto n_means = static_cast<uint32_t>(means.size() / shape.head_dim);
    const index::Selector& index = *head.sequence->index();
    const uint64_t stride = round_up(head.n_blocks, kExtentBlocks);
    std::vector<float> weights(n_means * stride);
    const auto scratch = HostMemory::reserve(index.scratch_floats(n_means) * sizeof(float) + 64);
    index.estimate({.stream = cache_.index_stream(head.layer, head.kv_head),
                    .q = means.data(),
                    .n_queries = n_means,
                    .first_block = 0,
                    .end_block = head.n_blocks,
                    .scratch = scratch.as<float>(index.scratch_floats(n_means)).data(),
                    .log_weights = weights.data(),
                    .weight_stride = stride});
    const auto& choice = chooser_.choose({.log_weights = weights,
                                          .weight_stride = stride,
                                          .n_queries = n_means,
                                          .n_blocks = head.n_blocks,
                                          .n_positions = head.sequence->n_pos() + n_rows});
    EXPECT_TRUE(std::ranges::equal(choice.blocks, head.chosen))
        << "layer " << head.layer << ", KV head " << head.kv_head << ", " << n_rows << " rows";
  }

 private:
  KvCache& cache_;
  const KernelTable& kernels_;
  index::Chooser chooser_;
  const uint32_t rows_max_;
  uint32_t n_by_means_ = 0, n_by_rows_ = 0;
};

TEST(SparsePrefill, ARunChoosesByTheMeansOfItsRows) {
  for (const char* name : {"llama3", "llama-k-quantised"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const auto text = member.text(1200, kSparseSeed);
    for (const auto& method : index::method_names()) {
      SCOPED_TRACE(method.name);
      if (method.method == Method::kPq && member.model.shape().head_dim % kPqSubspaces != 0)
        continue;
      if (index::has_tail(method.method)) continue;
      SelectedSetting setting{.method = method.method, .budget = {Budget::Kind::kTokens, 384}};
      setting.chunk_rows = 2 * kRunRows;
      SelectedWalk walk(member.model, setting);
      const uint32_t rows_max = walk.walk().selected_rows_max();
      MeansProbe probe(walk.cache(), {.budget = setting.budget}, rows_max);
      Sequence sequence = walk.sequence();
      walk.feed(sequence, std::span(text).first(700));
      walk.walk().set_probe(&probe);
      const uint32_t n_layers = member.model.shape().n_layers;  // all of them full
      const uint32_t n_heads = n_layers * member.model.shape().layers[0].n_kv_heads;
      // Two runs, the second of which ends in a mean of fewer rows.
      chunk_of(walk, sequence, std::span(text).subspan(700, kRunRows + rows_max + 3));
      EXPECT_EQ(probe.n_by_means(), 2 * n_heads);
      // Two runs, the second of which is short enough for its rows to be scored.
      chunk_of(walk, sequence, std::span(text).subspan(900, kRunRows + rows_max));
      EXPECT_EQ(probe.n_by_means(), 3 * n_heads);
      EXPECT_EQ(probe.n_by_rows(), n_heads);
      EXPECT_LT(walk.walk().selection_counts().attended_blocks,
                walk.walk().selection_counts().blocks / 2);
      walk.walk().set_probe(nullptr);
    }
  }
}

/// The first run of a chunk knows nothing of the others.
TEST(SparsePrefill, ARunDoesNotSeeWhatComesBehindIt) {
  const LoadedMember member("llama3");
  const auto text = member.text(1000, kSparseSeed);
  SelectedSetting setting{.method = Method::kRabitq, .budget = {Budget::Kind::kTokens, 384}};
  setting.chunk_rows = 2 * kRunRows;
  setting.n_sequences = 2;
  SelectedWalk walk(member.model, setting);
  Sequence held = walk.sequence();
  walk.feed(held, std::span(text).first(700));
  Sequence other = held.fork();
  Logits together = chunk_of(walk, held, std::span(text).subspan(700, kRunRows + 100));
  together.resize(kRunRows);
  EXPECT_EQ(
      first_difference(together, chunk_of(walk, other, std::span(text).subspan(700, kRunRows))),
      std::nullopt);
}

/// With a tail each row is scored. The second run attends what a step of its own would, as long as
/// no block is filled in between.
TEST(SparsePrefill, RunsWithATailChooseAsStepsOfTheirOwnWould) {
  const LoadedMember member("llama-k-quantised");  // four query heads to a KV head: short runs
  const auto text = member.text(700, kSparseSeed);
  for (const auto& method : index::method_names()) {
    if (!index::has_tail(method.method)) continue;
    SCOPED_TRACE(method.name);
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
  const auto text = member.text(1400, kSparseSeed);
  SelectedSetting floor{.method = Method::kRecent, .budget = {Budget::Kind::kTokens, 480}};
  floor.chunk_rows = 2 * kRunRows;
  SelectedWalk by_recency(member.model, floor);
  const Logits recent = read_sparsely(by_recency, text, 700, floor.chunk_rows);
  for (const Method method : {Method::kQuest, Method::kRabitqTail}) {
    SelectedSetting setting{.method = method, .budget = floor.budget};
    setting.chunk_rows = floor.chunk_rows;
    SelectedWalk here(member.model, setting);
    const Logits expected = read_sparsely(here, text, 700, setting.chunk_rows);
    // Rows of the second run of a chunk, not the first alone, retrieve.
    const uint32_t second = 700 + kRunRows;
    EXPECT_FALSE(
        is_same(std::span(expected).subspan(second, 1), std::span(recent).subspan(second, 1)));
    setting.place = Place::kSimulated;
    setting.dram_positions = 700;
    SelectedWalk away(member.model, setting);
    EXPECT_EQ(first_difference(read_sparsely(away, text, 700, setting.chunk_rows), expected),
              std::nullopt);
    EXPECT_GT(away.walk().selection_counts().missing_blocks, 0u);
    setting.n_threads = 3;
    SelectedWalk others(member.model, setting);
    EXPECT_EQ(first_difference(read_sparsely(others, text, 700, setting.chunk_rows), expected),
              std::nullopt);
  }
}

TEST(SparsePrefill, SequencesOfOneStepDoNotSeeEachOther) {
  const LoadedMember member("llama3");
  const auto text = member.text(500, kSparseSeed);
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
  const auto text = member.text(1300, kSparseSeed);
  SelectedSetting setting{.method = Method::kQuest, .budget = {Budget::Kind::kTokens, 384}};
  setting.chunk_rows = 2 * kRunRows;
  SelectedWalk walk(member.model, setting);
  Sequence sequence = walk.sequence();
  walk.feed(sequence, std::span(text).first(960));
  chunk_of(walk, sequence, std::span(text).subspan(960, 2 * kRunRows));
  const SelectionCounts& counts = walk.walk().selection_counts();
  const uint64_t n_choices = counts.blocks / (960 / kBlockPositions);
  // Twelve blocks less those that the run's own rows stand for.
  const uint64_t own = blocks_for(kRunRows);
  EXPECT_EQ(counts.attended_blocks, n_choices * (384 / kBlockPositions - own));
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
  const auto text = member.text(600, kSparseSeed);
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
