// Steps that attend what an index chooses: all of it is exact attention, a part of it is found
// again after everything that happens to a sequence.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>

#include "index/recent_selector.h"
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
  for (const makers::ZooMember* listed : testing::walked_members(random)) {
    SCOPED_TRACE(listed->model.name);
    const LoadedMember member(listed->model.name);
    const auto n_threads = 1 + static_cast<uint32_t>(random() % 2);
    const auto text = random_tokens(200 + static_cast<uint32_t>(random() % 300),
                                    listed->model.vocab_size, static_cast<uint32_t>(random()));
    const auto n_exact = static_cast<uint32_t>(random() % text.size());
    WalkSetting exact = setting_with(Method::kRecent, {});
    exact.method.reset();
    exact.n_threads = n_threads;
    const Logits expected = ZooWalk(member.model, exact).feed_all(text);
    for (const auto& method : index::method_names()) {
      SCOPED_TRACE(method.name);
      if (method.method == Method::kPq && member.model.shape().head_dim % kPqSubspaces != 0)
        continue;
      WalkSetting everything = setting_with(method.method, {Budget::Kind::kShare, 1.0});
      everything.n_threads = n_threads;
      ZooWalk walk(member.model, everything);
      ASSERT_TRUE(is_same(read_split(walk, text, n_exact), expected));
      const SelectionCounts& counts = walk.walk().selection_counts();
      EXPECT_EQ(counts.attended_blocks, counts.blocks);
    }
  }
}

/// Token by token, as answers are decoded.
Logits decode(ZooWalk& walk, Sequence& sequence, std::span<const int32_t> text) {
  Logits logits;
  for (size_t i = 0; i < text.size(); ++i)
    logits.push_back(walk.feed(sequence, text.subspan(i, 1), 0, Attention::kSelected).front());
  return logits;
}

TEST(Selection, HeadsThatAttendAsTheyChooseGiveTheSameBitsOnAnyNumberOfThreads) {
  for (const char* name : {"llama3", "llama-linear"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const auto text = member.text(3110, 7);  // four spans of partials
    const std::span<const int32_t> context = std::span(text).first(3100),
                                   rest = std::span(text).subspan(3100);
    const auto decoded = [&](Budget budget, uint32_t n_threads) {
      WalkSetting setting = setting_with(Method::kQuest, budget);
      setting.n_ctx = 4096;
      setting.n_threads = n_threads;
      ZooWalk walk(member.model, setting);
      Sequence sequence = walk.sequence();
      const Logits before = walk.feed(sequence, context);
      Sequence exact = sequence.fork();
      const Logits of_all = walk.feed(exact, rest);
      const Logits of_chosen = decode(walk, sequence, rest);
      if (budget.kind == Budget::Kind::kShare) {
        EXPECT_TRUE(is_same(of_chosen, of_all));
      }
      return of_chosen;
    };
    for (const Budget budget :
         {Budget{Budget::Kind::kShare, 1.0}, Budget{Budget::Kind::kTokens, 1500}}) {
      const Logits alone = decoded(budget, 1);
      for (const uint32_t n_threads : {2u, 3u, 8u})
        EXPECT_TRUE(is_same(decoded(budget, n_threads), alone)) << n_threads;
    }
  }
}

/// Fails where it is asked about the second KV head of the first layer.
class FailingSelector : public index::RecentSelector {
 public:
  void estimate(const index::EstimateArgs& args) const override {
    if (args.stream == 1)
      throw Error(ErrorCode::kIo, "no estimate", "the test's index", "ask another");
    RecentSelector::estimate(args);
  }
};

TEST(Selection, AnEstimateThatFailsEndsItsStepOnEveryThread) {
  const LoadedMember member("llama3");
  const auto text = member.text(601, 3);
  for (const uint32_t n_threads : {1u, 2u, 4u}) {
    WalkSetting setting = setting_with(Method::kRecent, {});
    setting.method.reset();
    setting.n_threads = n_threads;
    ZooWalk walk(member.model, setting);
    Sequence sequence = walk.sequence();
    const Logits before = walk.feed(sequence, std::span(text).first(600));
    walk.walk().select_by({}, setting.n_ctx);
    sequence.attach_index(std::make_unique<FailingSelector>());
    EXPECT_THROW(decode(walk, sequence, std::span(text).subspan(600)), Error) << n_threads;
  }
}

TEST(Selection, AnIndexThatIsAttachedLaterIsTheOneThatGrewWithTheText) {
  const LoadedMember member("llama3");
  const auto text = member.text(700, 5);
  const std::span<const int32_t> context = std::span(text).first(600),
                                 rest = std::span(text).subspan(600);
  const Budget budget{Budget::Kind::kTokens, 256};
  const WalkSetting setting = setting_with(Method::kQuest, budget);
  ZooWalk grown(member.model, setting);
  const Logits expected = read_split(grown, text, 600);

  WalkSetting without = setting;
  without.method.reset();
  ZooWalk walk(member.model, without);
  const index::SelectorSource source(
      Method::kQuest,
      index_shape(member.model.shape(), setting.k_codec, setting.v_codec, setting.n_ctx),
      *setting.kernels);
  Sequence read = walk.sequence();
  const Logits before = walk.feed(read, context);
  const auto select = [&](Budget of) {
    index::Rule rule;
    rule.budget = of;
    walk.walk().select_by(rule, setting.n_ctx);
    Sequence fork = read.fork();
    fork.attach_index(source.make());
    return walk.feed(fork, rest, 0, Attention::kSelected);
  };
  const auto selected = [&](const Logits& all) { return std::span(all).last(rest.size()); };
  EXPECT_TRUE(is_same(select(budget), selected(expected)));
  EXPECT_LT(walk.walk().selection_counts().attended_blocks, walk.walk().selection_counts().blocks);
  // Another rule, on another fork; and the text itself is as it was.
  const Logits exact = [&] {
    Sequence fork = read.fork();
    return walk.feed(fork, rest);
  }();
  EXPECT_TRUE(is_same(select({Budget::Kind::kShare, 1.0}), exact));
  EXPECT_EQ(walk.walk().selection_counts().attended_blocks, walk.walk().selection_counts().blocks);
  EXPECT_FALSE(is_same(selected(expected), exact));
  EXPECT_EQ(read.index(), nullptr);
}

/// Blocks of selected steps are indexed as they close, and their rows are those of an index that
/// reads the same K and V later: pq's with a codebook that such a step has trained.
TEST(Selection, BlocksThatAnAnswerFillsAreIndexedAsTheyClose) {
  const LoadedMember member("llama3");
  const auto text = member.text(1120, 8);
  for (const auto& method : index::method_names()) {
    SCOPED_TRACE(method.name);
    WalkSetting setting = setting_with(method.method, {Budget::Kind::kTokens, 256});
    setting.n_threads = 1;
    ZooWalk walk(member.model, setting);
    Sequence grown = walk.sequence();
    walk.feed(grown, std::span(text).first(1000));
    for (size_t pos = 1000; pos < 1100; ++pos) {
      walk.feed(grown, std::span(text).subspan(pos, 1), 0, Attention::kSelected);
      ASSERT_EQ(grown.n_indexed(), grown.n_pos() / kBlockPositions);
    }
    EXPECT_LT(walk.walk().selection_counts().attended_blocks,
              walk.walk().selection_counts().blocks);
    Sequence later = grown.fork(false);
    const index::SelectorSource source(
        method.method,
        index_shape(member.model.shape(), setting.k_codec, setting.v_codec, setting.n_ctx),
        *setting.kernels);
    later.attach_index(source.make());
    const auto rest = std::span(text).subspan(1100);
    const Logits expected = walk.feed(later, rest, 0, Attention::kSelected);
    EXPECT_TRUE(is_same(walk.feed(grown, rest, 0, Attention::kSelected), expected));
    for (index::StreamIdx stream = 0; stream < walk.cache().n_index_streams(); ++stream) {
      EXPECT_EQ(grown.index()->n_codebooks(stream), method.method == Method::kPq ? 1u : 0u);
      for (uint32_t extent = 0; extent < 1100 / kExtentPositions; ++extent)
        EXPECT_TRUE(std::ranges::equal(grown.index()->rows(stream, extent),
                                       later.index()->rows(stream, extent)))
            << stream << " " << extent;
    }
  }
}

TEST(Selection, ForksOfASequenceWhoseIndexLacksBlocksShareNoRowsToBeWritten) {
  const LoadedMember member("llama3");
  const auto text = member.text(700, 6);
  const auto rest = std::span(text).subspan(600);
  for (const Method method : {Method::kQuest, Method::kOracle}) {
    const WalkSetting setting = setting_with(method, {Budget::Kind::kTokens, 256});
    ZooWalk walk(member.model, setting);
    Sequence read = walk.sequence();
    walk.feed(read, std::span(text).first(600));
    const index::SelectorSource source(
        method, index_shape(member.model.shape(), setting.k_codec, setting.v_codec, setting.n_ctx),
        *setting.kernels);
    read.attach_index(source.make());
    Sequence one = read.fork();
    Sequence other = read.fork();
    const Logits expected = walk.feed(one, rest, 0, Attention::kSelected);
    const auto rows = one.index()->rows(0, 1);
    const std::vector<std::byte> kept(rows.begin(), rows.end());
    EXPECT_TRUE(is_same(walk.feed(other, rest, 0, Attention::kSelected), expected));
    EXPECT_NE(one.index()->rows(0, 1).data(), other.index()->rows(0, 1).data());
    EXPECT_TRUE(std::ranges::equal(one.index()->rows(0, 1), kept));
  }
}

TEST(Selection, AStepThatWasStoppedIsNotCounted) {
  const LoadedMember member("llama3");
  const auto text = member.text(200, 3);
  ZooWalk walk(member.model, setting_with(Method::kQuest, {Budget::Kind::kTokens, 96}));
  Sequence sequence = walk.sequence();
  walk.feed(sequence, text);
  uint32_t n_operations = 0;
  std::atomic<bool> stops = false;
  walk.walk().set_cancel(&stops);
  walk.walk().set_between_operations([&] { stops = ++n_operations == 8; });
  const StepRow row{&sequence, text.front(), true};
  EXPECT_THROW(walk.walk().step({&row, 1}, Attention::kSelected), Error);
  EXPECT_EQ(walk.walk().selection_counts().steps, 0u);
  EXPECT_EQ(walk.walk().selection_counts().blocks, 0u);
  EXPECT_EQ(walk.walk().selection_counts().index_bytes, 0u);
  stops = false;
  walk.walk().step({&row, 1}, Attention::kSelected);
  EXPECT_EQ(walk.walk().selection_counts().steps, 1u);
  walk.walk().set_cancel(nullptr);
}

struct Answers {
  std::vector<testing::Words> words;
  uint32_t n_right = 0;
  SelectionCounts counts;
};

/// To 8 keys at depths 0 .. 1 of a text, each of three words; within 2 % of the text.
Answers answers_of(RecallSetup setup, uint32_t n_tokens) {
  const makers::RecallModel model = makers::RecallModel::make({.n_kv_heads = 1});
  const makers::RecallTask task = make_recall_task(model, 8, 3, 7);
  setup.rule.budget = {Budget::Kind::kShare, 0.02};
  RecallRun run(model, n_tokens, setup);
  run.read(make_recall_text(model, n_tokens - 1, task.passages, 7).words);
  Answers answers;
  for (const auto& question : task.questions) {
    answers.words.push_back(run.ask(question.ask, question.answer.size()));
    answers.n_right += answers.words.back() == question.answer ? 1u : 0u;
  }
  answers.counts = run.walk().selection_counts();
  return answers;
}

/// What a step without a choice would not miss: what selected steps have said is found again, too,
/// when it has left the window.
TEST(Selection, AFactThatAnAnswerHasStatedIsFoundByItsIndex) {
  const makers::RecallModel model = makers::RecallModel::make({.n_kv_heads = 1});
  const makers::RecallTask task = make_recall_task(model, 8, 3, 9);
  const auto text = make_recall_text(model, 3000, task.passages, 9);
  for (const Method method : {Method::kOracle, Method::kPq, Method::kRabitq, Method::kRabitqTail}) {
    RecallSetup setup{.n_threads = 1, .method = method};
    setup.rule.budget = {Budget::Kind::kTokens, 256};
    RecallRun run(model, 3001, setup);
    run.read(text.words, 1000);
    for (const auto& question : task.questions)
      EXPECT_EQ(run.ask(question.ask, question.answer.size()), question.answer)
          << static_cast<int>(method) << " at word " << text.passage_begin[question.passages[0]];
  }
}

/// Also with 95 % of K and V in a file: the same words, from as many blocks.
TEST(Selection, TwoPercentOf32KTokensHoldTheAnswer) {
  for (const auto& method : index::method_names()) {
    const Answers answers = answers_of({.method = method.method}, 32768);
    const SelectionCounts& counts = answers.counts;
    const double share =
        static_cast<double>(counts.attended_blocks) / static_cast<double>(counts.blocks);
    std::printf("%-8s %u of 8 answers, %.2f %% of the blocks read\n", method.name, answers.n_right,
                100 * share);
    EXPECT_LE(share, 0.0201);
    if (method.method == Method::kRecent) {
      EXPECT_LT(answers.n_right, 8u);
    }
    // What `auto` may take, beside the best there can be.
    constexpr Method kAllRight[] = {Method::kOracle, Method::kPq, Method::kRabitq,
                                    Method::kRabitqTail};
    if (std::ranges::find(kAllRight, method.method) != std::end(kAllRight)) {
      EXPECT_EQ(answers.n_right, 8u) << method.name;
    }
    if (method.method != Method::kOracle) continue;
    const Answers from_disk =
        answers_of({.chunk_rows = 256, .dram_positions = 1600, .method = method.method}, 32768);
    EXPECT_EQ(from_disk.words, answers.words);
    EXPECT_EQ(from_disk.counts.attended_blocks, counts.attended_blocks);
    EXPECT_GT(from_disk.counts.missing_blocks, counts.steps);
    EXPECT_LT(from_disk.counts.missing_blocks, from_disk.counts.pinned_blocks);
  }
}

}  // namespace
}  // namespace strata::engine
