// Contexts that are saved and found again: by text alone, with the bits of a run that read it all.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "tests/engine/cached_run.h"

namespace strata::engine {
namespace {

using testing::cached_setting;
using testing::CachedRun;
using testing::damage_packs;
using testing::is_same;
using testing::joined;
using testing::kCachedChunk;
using testing::kCachedSeed;
using testing::LoadedMember;
using testing::Logits;
using testing::save_text;
using testing::TestFolder;
using testing::ZooWalk;

TEST(ContextCache, AnotherQuestionAboutASavedTextHasTheBitsOfAFreshRun) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (const makers::ZooMember* listed : testing::walked_members(random)) {
    SCOPED_TRACE(listed->model.name);
    const LoadedMember member(listed->model.name);
    const TestFolder folder;
    const auto document = member.text(1100, kCachedSeed);
    const auto first = joined(document, member.text(30, 1));
    const auto second = joined(document, member.text(40, 2));
    {
      CachedRun run(member, folder);
      run.read(first);
      EXPECT_EQ(run.n_restored(), 0u);
      run.finish();
      EXPECT_EQ(run.counts().saved_tokens, first.size());
    }
    const Logits whole = ZooWalk(member.model, cached_setting()).feed_all(second);
    CachedRun run(member, folder);
    const Logits rest = run.read(second);
    // Whole blocks of the document.
    EXPECT_EQ(run.n_restored(), document.size() / kBlockPositions * kBlockPositions);
    EXPECT_TRUE(is_same(rest, std::span(whole).last(rest.size())));
  }
}

TEST(ContextCache, TheSameTextAgainIsUsedToItsLastTokenButOne) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(5000, kCachedSeed);  // two packs
  const Logits whole = ZooWalk(member.model, cached_setting()).feed_all(text);
  CachedRun first(member, folder);
  first.read(text);
  first.finish();
  CachedRun second(member, folder);
  const Logits rest = second.read(text);
  EXPECT_EQ(second.n_restored(), 4992u);  // the last block is not whole without its last token
  EXPECT_TRUE(is_same(rest, std::span(whole).last(rest.size())));
}

TEST(ContextCache, ASavedTextGrowsRunAfterRun) {
  const LoadedMember member("gemma3");
  const TestFolder folder;
  const auto text = member.text(1500, kCachedSeed);
  const Logits whole = ZooWalk(member.model, cached_setting()).feed_all(text);
  for (const uint32_t n : {400u, 700u, 1000u, 1500u}) {
    CachedRun run(member, folder);
    const Logits rest = run.read(std::span(text).first(n));
    run.finish("talk");
    EXPECT_TRUE(is_same(rest, std::span(whole).first(n).last(rest.size()))) << n;
  }
}

/// Layers of a window save the rows that they hold when an extent closes. A text that goes on
/// differently in the middle of an extent is resumed where the extent before ends.
TEST(ContextCache, AWindowedTextIsResumedAtTheNearestPlaceThatHasItsRows) {
  const LoadedMember member("gemma3");
  const TestFolder folder;
  const auto document = member.text(1100, kCachedSeed);
  const auto asked = joined(document, member.text(30, 2));
  const Logits whole = ZooWalk(member.model, cached_setting()).feed_all(asked);
  {
    CachedRun run(member, folder);
    run.read(joined(document, member.text(900, 1)));  // the window has left the document's end
    run.finish();
  }
  CachedRun run(member, folder);
  const Logits rest = run.read(asked);
  EXPECT_EQ(run.n_restored(), document.size() / kExtentPositions * kExtentPositions);
  EXPECT_TRUE(is_same(rest, std::span(whole).last(rest.size())));
}

TEST(ContextCache, ShortTurnsLeaveAPackForAnExtentAndNotForATurn) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(1200, kCachedSeed);
  for (uint32_t n = 300; n <= text.size(); n += 60) {
    CachedRun run(member, folder);
    run.read(std::span(text).first(n));
    run.finish("chat");
  }
  const auto n_packs =
      std::ranges::count_if(std::filesystem::directory_iterator(folder.path("contexts")),
                            [](const auto& entry) { return entry.path().extension() == ".pack"; });
  EXPECT_EQ(n_packs, 5);  // of 16 turns, in 1,200 positions
}

TEST(ContextCache, APromptThatWasStoppedIsSavedAsFarAsItWasRead) {
  for (const std::string name : {"llama3", "gemma3"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const TestFolder folder;
    const auto text = member.text(3000, kCachedSeed);
    {
      CachedRun run(member, folder);
      run.begin(text);
      run.read_to(text, 6 * kCachedChunk);  // three extents of a run that has more
      run.finish();
      EXPECT_EQ(run.counts().saved_tokens, 6 * kCachedChunk);
    }
    const Logits whole =
        ZooWalk(member.model, cached_setting()).feed_all(std::span(text).first(1000));
    CachedRun run(member, folder);
    const Logits rest = run.read(std::span(text).first(1000));
    EXPECT_EQ(run.n_restored(), 6 * kCachedChunk);
    EXPECT_TRUE(is_same(rest, std::span(whole).last(rest.size())));
  }
}

TEST(ContextCache, APromptStoppedBeforeItsFirstStepLeavesTheSessionOfItsName) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  {
    CachedRun run(member, folder);
    run.read(member.text(600, kCachedSeed));
    run.finish("talk");
  }
  {
    CachedRun run(member, folder);
    run.begin(member.text(600, 4));
    run.finish("talk");
  }
  const auto directory = tiers::PackDirectory::open(folder.path("contexts"), {});
  const auto session = directory.session("talk");
  ASSERT_TRUE(session.has_value());
  EXPECT_EQ(session->tokens.size(), 600u);
}

TEST(ContextCache, AStoppedPromptLeavesTheLongerSessionOfItsName) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(1500, kCachedSeed);
  const auto n_tokens = [&](std::span<const int32_t> prompt, uint32_t n_read) {
    CachedRun run(member, folder, {});
    run.begin(prompt);
    run.read_to(prompt, n_read);
    run.finish("talk");
    return tiers::PackDirectory::open(folder.path("contexts"), {}).session("talk")->tokens.size();
  };
  EXPECT_EQ(n_tokens(text, 1500), 1500u);
  EXPECT_EQ(n_tokens(std::span(text).first(1000), 1000), 1500u);
  EXPECT_EQ(n_tokens(joined(text, member.text(300, 8)), 1800), 1800u);  // a longer one
  const auto other = joined({text.begin(), text.begin() + 500}, member.text(300, 9));
  EXPECT_EQ(n_tokens(other, 800), 800u);  // another text
}

TEST(ContextCache, AHistoryThatWasEditedIsSavedAsItIsNow) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto first = member.text(700, kCachedSeed);
  const auto edited = joined({first.begin(), first.begin() + 300}, member.text(700, 5));
  const Logits whole = ZooWalk(member.model, cached_setting()).feed_all(edited);
  {
    CachedRun run(member, folder);
    run.read(first);
    run.finish();
    run.read_after(edited, 300);
    run.finish();
  }
  CachedRun run(member, folder);
  const Logits rest = run.read(edited);
  EXPECT_EQ(run.n_restored(), 992u);  // every whole block but the last token's
  EXPECT_TRUE(is_same(rest, std::span(whole).last(rest.size())));
}

TEST(ContextCache, RestoringAgainOpensNoFileAgain) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(600, kCachedSeed);
  CachedRun run(member, folder);
  run.read(text);
  run.finish();
  const auto n_open = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  };
  run.begin(text);
  const auto n_before = n_open();
  for (uint32_t i = 0; i < 3; ++i) run.begin(text);
  EXPECT_EQ(n_open(), n_before);
}

TEST(ContextCache, FilesThatNoSequenceUsesAnyMoreAreClosed) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto n_open = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  };
  std::vector<std::vector<int32_t>> texts;
  for (uint32_t i = 0; i < 4; ++i) {
    texts.push_back(member.text(600, kCachedSeed + i));
    save_text(member, folder, texts.back());
  }
  CachedRun run(member, folder);
  const auto n_before = n_open();
  for (const auto& text : texts) {
    run.begin(text);
    ASSERT_EQ(run.n_restored(), 576u);  // whole blocks
    const auto n_used = n_open();
    EXPECT_GT(n_used, n_before);
    run.feed(run.sequence(), std::span(text).last(1));
    EXPECT_EQ(n_open(), n_used);
    run.sequence() = run.cache().make_sequence();
    EXPECT_EQ(n_open(), n_before) << "a file is open that nobody can read";
  }
  // Also where reads were on their way: the files wait for these.
  run.begin(texts[0]);
  const tiers::BlockId first = run.cache().block_id(run.sequence(), 0, 0, 0);
  ASSERT_TRUE(run.cache().store().fetch(run.cache().store().extent_of(first)));
  run.cache().store().release(run.cache().store().extent_of(first));
  run.sequence() = run.cache().make_sequence();
  while (run.cache().store().wait_for_transfer()) continue;
  run.begin(texts[1]);
  run.sequence() = run.cache().make_sequence();
  EXPECT_EQ(n_open(), n_before);
}

TEST(ContextCache, AnAnswerIsFoundByItsBytes) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  // Tokens stand for "a", "aa", "aaa" or "b...": many ways to spell one text.
  const tiers::TokenBytes bytes_of = [](int32_t token, std::string& out) {
    out += token < 150 ? std::string(1 + static_cast<size_t>(token) % 3, 'a')
                       : "b" + std::to_string(token);
  };
  const auto prompt = member.text(700, kCachedSeed);
  const auto answer = std::vector<int32_t>(300, 1);  // "aa" each
  const auto text = joined(prompt, answer);
  {
    CachedRun run(member, folder);
    run.read(prompt);
    run.feed(run.sequence(), answer);
    run.finish();
  }
  std::string bytes;
  for (const int32_t token : text) bytes_of(token, bytes);
  CachedRun run(member, folder);
  const tiers::KnownText known = run.contexts().known_text(bytes + "a question", bytes_of);
  EXPECT_EQ(known.tokens, text);
  EXPECT_EQ(known.n_bytes, bytes.size());
  // What has not been generated is left to the tokenizer.
  bytes.clear();
  for (const int32_t token : prompt) bytes_of(token, bytes);
  EXPECT_TRUE(run.contexts().known_text(bytes + "cc", bytes_of).tokens.empty());
}

TEST(ContextCache, WhatIsComputedAgainServesEveryLayer) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(5 * kExtentPositions, kCachedSeed);
  const auto more = joined(text, member.text(50, 3));
  const Logits whole = ZooWalk(member.model, cached_setting()).feed_all(more);
  save_text(member, folder, text);
  ASSERT_GT(damage_packs(folder), 0u);
  CachedRun run(member, folder);
  const Logits rest = run.read(more);
  EXPECT_EQ(run.n_restored(), text.size());
  EXPECT_TRUE(is_same(rest, std::span(whole).last(rest.size())));
  EXPECT_EQ(run.store().lost_extents, 5u);  // one for each of the positions, not for each layer
}

/// The blocks that a step opens are counted before; reading back what it copies must leave them.
TEST(ContextCache, CopyingASavedBlockTakesNoMoreMemoryThanWasCounted) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(600, kCachedSeed);
  save_text(member, folder, text);
  const Logits whole = ZooWalk(member.model, cached_setting()).feed_all(text);
  CachedRun run(member, folder);
  Sequence sequence = run.contexts().restore(run.cache(), text);
  constexpr uint32_t kKept = kExtentPositions + 80;  // within a block of an extent that is away
  ASSERT_EQ(sequence.truncate(kKept), kKept);
  tiers::BlockStore& store = run.cache().store();
  uint64_t n_streams = 0;
  for (const LayerShape& layer : member.model.shape().layers) n_streams += layer.n_kv_heads;
  // A copy and one more block of every stream; others have the rest.
  std::vector<tiers::BlockId> others;
  while (store.pool().n_free() > 2 * n_streams) {
    const auto block = store.open_block(tiers::kNoBlock);
    ASSERT_TRUE(block.has_value());
    others.push_back(*block);
  }
  const Logits rest = run.feed(sequence, std::span(text).subspan(kKept, 20));
  EXPECT_TRUE(is_same(rest, std::span(whole).subspan(kKept, 20)));
  for (const tiers::BlockId block : others) store.release(block);
}

}  // namespace
}  // namespace strata::engine
