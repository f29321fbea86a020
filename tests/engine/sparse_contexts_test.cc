// Saved contexts of runs that choose blocks: what they read exactly is everybody's; what they read
// by selected chunks is found by who reads in the same way, and by nobody else.
#include <gtest/gtest.h>

#include "engine/text_roots.h"
#include "tests/engine/cached_run.h"

namespace strata::engine {
namespace {

using testing::cached_setting;
using testing::CachedRun;
using testing::is_same;
using testing::joined;
using testing::kCachedChunk;
using testing::kCachedModel;
using testing::LoadedMember;
using testing::Logits;
using testing::TestFolder;
using testing::WalkSetting;
using testing::ZooWalk;

constexpr uint32_t kFrom = 600;  // where sparse reading begins

WalkSetting setting_with(uint32_t budget) {
  WalkSetting setting = cached_setting();
  setting.n_threads = 1;
  setting.method = index::Method::kRabitq;
  setting.rule.budget = {index::Budget::Kind::kTokens, static_cast<double>(budget)};
  return setting;
}

tiers::Hash128 root_with(uint32_t budget) {
  const WalkSetting setting = setting_with(budget);
  return sparse_root({*setting.method, setting.rule, kFrom, kCachedChunk});
}

/// A run with --sparse-prefill.
class SparseRun {
 public:
  SparseRun(const LoadedMember& member, const TestFolder& folder, uint32_t budget = 512)
      : root_(root_with(budget)),
        walk_(member.model, setting_with(budget), CachedRun::transfers(member)),
        contexts_({.directory = folder.path("contexts"),
                   .limits = {},
                   .sparse_root = root_,
                   .sparse_from = kFrom},
                  walk_.cache(), kCachedModel, "test"),
        sequence_(walk_.sequence()) {}

  /// Positions that are restored of the prompt, after this root.
  uint32_t begin(std::span<const int32_t> prompt, const tiers::Hash128& root) {
    sequence_ = contexts_.restore(walk_.cache(), prompt.first(prompt.size() - 1), root);
    contexts_.begin(sequence_, prompt);
    return sequence_.n_pos();
  }
  uint32_t begin(std::span<const int32_t> prompt) { return begin(prompt, root_); }
  /// Goes on to the end of the prompt.
  void read(std::span<const int32_t> prompt, uint64_t from = kFrom) {
    prefill_sparsely(walk_.walk(), sequence_, prompt.subspan(sequence_.n_pos()), kCachedChunk, from,
                     [&](uint64_t, uint64_t) {
                       contexts_.save_closed(walk_.cache(), sequence_);
                       return true;
                     });
  }
  Logits ask(std::span<const int32_t> question) {
    return walk_.feed(sequence_, question, 0, Attention::kSelected);
  }
  void finish(const std::string& session = "") {
    contexts_.finish(walk_.walk(), sequence_, session);
    EXPECT_EQ(contexts_.problem(), "");
    EXPECT_EQ(contexts_.rows_problem(), "");
  }
  const Sequence& sequence() const { return sequence_; }
  ContextCacheCounts counts() const { return contexts_.counts(); }

 private:
  tiers::Hash128 root_;
  ZooWalk walk_;
  ContextCache contexts_;
  Sequence sequence_;
};

TEST(SparseContexts, AreFoundByWhoReadsInTheSameWay) {
  for (const char* name : {"llama3", "gemma3"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const TestFolder folder;
    const auto text = member.text(3000, testing::kCachedSeed);
    const auto question = member.text(20, 7);
    Logits expected;
    {
      SparseRun first(member, folder);
      EXPECT_EQ(first.begin(text), 0u);
      first.read(text);
      first.finish();
      EXPECT_EQ(first.sequence().n_exact(), kFrom);
      EXPECT_EQ(first.counts().saved_tokens, 3000u);
      EXPECT_GT(first.counts().saved_rows_bytes, 0u);
      expected = first.ask(question);
    }
    const auto prompt = joined(text, question);
    SparseRun second(member, folder);
    EXPECT_EQ(second.begin(prompt), 3000u);
    EXPECT_EQ(second.sequence().n_exact(), kFrom);
    // Rows of what was read sparsely are saved with it; of an extent that is not whole none are.
    EXPECT_EQ(second.counts().indexed_tokens, 2816u);
    EXPECT_TRUE(is_same(second.ask(question), expected));
  }
}

TEST(SparseContexts, AreFoundByNobodyElse) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(1500, testing::kCachedSeed);
  {
    SparseRun run(member, folder);
    run.begin(text);
    run.read(text);
    run.finish();
  }
  SparseRun other(member, folder, 1024);
  EXPECT_EQ(other.begin(text), 0u);
  CachedRun exact(member, folder);
  const Logits logits = exact.read(text);
  EXPECT_EQ(exact.n_restored(), 0u);
  const TestFolder empty;
  EXPECT_TRUE(is_same(logits, CachedRun(member, empty).read(text)));
}

TEST(SparseContexts, AShorterOneLeavesTheLongerExactSessionOfItsName) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(1500, testing::kCachedSeed);
  testing::save_text(member, folder, text, "book");
  {
    SparseRun run(member, folder);
    run.begin(text);
    run.read(std::span(text).first(1000));
    run.finish("book");
  }
  CachedRun exact(member, folder);
  const auto packs = tiers::PackDirectory::open(folder.path("contexts"), {}, tiers::system_calls());
  const auto session = packs.session("book");
  ASSERT_TRUE(session);
  EXPECT_EQ(session->tokens.size(), 1500u);
}

TEST(SparseContexts, OfOtherTextsWhatWasReadExactlyIsSaved) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(1500, testing::kCachedSeed);
  {
    // After everybody's root, as where most of the text was there; then a question and an answer.
    SparseRun run(member, folder);
    EXPECT_EQ(run.begin(text, {}), 0u);
    run.read(text, 1200);
    (void)run.ask(member.text(300, 8));
    run.finish();
    EXPECT_EQ(run.sequence().n_exact(), 1200u);
  }
  const TestFolder empty;
  CachedRun exact(member, folder), fresh(member, empty);
  const Logits logits = exact.read(text);
  EXPECT_EQ(exact.n_restored(), 1200u);
  const Logits expected = fresh.read(text);
  EXPECT_TRUE(is_same(logits, std::span(expected).subspan(1200)));
}

}  // namespace
}  // namespace strata::engine
