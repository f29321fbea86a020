// Contexts that are saved and found again: by text alone, with the bits of a run that read it all.
#include <gtest/gtest.h>

#include <sys/resource.h>

#include <condition_variable>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

#include "engine/context_cache.h"
#include "engine/kv_placement.h"
#include "tests/engine/test_folder.h"
#include "tests/engine/zoo_fixture.h"

namespace strata::engine {
namespace {

using testing::is_same;
using testing::LoadedMember;
using testing::Logits;
using testing::random_tokens;
using testing::TestFolder;
using testing::WalkSetting;
using testing::ZooWalk;

constexpr uint32_t kSeed = 20261125;
constexpr uint32_t kChunk = 128;
constexpr tiers::Hash128 kModel{1, 2};

WalkSetting setting() {
  WalkSetting setting;
  setting.kernels = cpu_attn::available_kernels().back();
  setting.n_threads = 2;
  setting.chunk_rows = kChunk;
  setting.n_ctx = 8192;
  return setting;
}

/// A walk whose cache directory is `folder`, as one run of the program has it.
class CachedRun {
 public:
  CachedRun(const LoadedMember& member, const TestFolder& folder,
            const tiers::PackLimits& limits = {})
      : walk_(member.model, setting(), transfers(member)),
        contexts_({.directory = folder.path("contexts"), .limits = limits, .saves = true},
                  walk_.cache(), kModel, "test"),
        sequence_(walk_.sequence()) {}

  /// Reads a prompt, from what is saved of it on; the logits of the rows that were read.
  Logits read(std::span<const int32_t> prompt) {
    begin(prompt);
    return read_to(prompt, static_cast<uint32_t>(prompt.size()));
  }
  void begin(std::span<const int32_t> prompt) {
    sequence_ = contexts_.restore(walk_.cache(), prompt.first(prompt.size() - 1));
    n_restored_ = sequence_.n_pos();
    contexts_.begin(sequence_, prompt);
  }
  /// Goes on with the prompt that was begun, in whole steps, until it has n positions.
  Logits read_to(std::span<const int32_t> prompt, uint32_t n) {
    Logits logits;
    while (sequence_.n_pos() < n) {
      const auto rest = prompt.subspan(sequence_.n_pos());
      for (auto& row : walk_.feed(sequence_, rest.first(std::min<size_t>(rest.size(), kChunk))))
        logits.push_back(std::move(row));
      contexts_.save_closed(walk_.cache(), sequence_);
    }
    return logits;
  }
  void finish(const std::string& session = "") {
    contexts_.finish(walk_.walk(), sequence_, session);
    EXPECT_EQ(contexts_.problem(), "");
  }
  /// Another prompt for the same sequence, as a chat has it: what both begin with is kept.
  Logits read_after(std::span<const int32_t> prompt, uint32_t n_common) {
    contexts_.begin(sequence_, prompt);
    EXPECT_EQ(sequence_.truncate(n_common), n_common);
    return read_to(prompt, static_cast<uint32_t>(prompt.size()));
  }
  Logits feed(Sequence& sequence, std::span<const int32_t> tokens) {
    return walk_.feed(sequence, tokens);
  }
  KvCache& cache() { return walk_.cache(); }
  Walk& walk() { return walk_.walk(); }
  Sequence& sequence() { return sequence_; }
  ContextCache& contexts() { return contexts_; }
  uint32_t n_restored() const { return n_restored_; }
  ContextCacheCounts counts() const { return contexts_.counts(); }
  const tiers::StoreCounts& store() { return walk_.cache().store().counts(); }
  static std::unique_ptr<tiers::Spill> transfers(const LoadedMember& member) {
    std::vector<std::string> notices;
    return tiers::open_spill(
        {.place_bytes = place_bytes(member.model.shape(), {.n_ctx = 8192, .chunk_rows = kChunk}),
         .n_frames = 16,
         .io = tiers::IoChoice::kThreads},
        notices);
  }

 private:
  ZooWalk walk_;
  ContextCache contexts_;
  Sequence sequence_;
  uint32_t n_restored_ = 0;
};

std::vector<int32_t> joined(std::vector<int32_t> a, std::span<const int32_t> b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(ContextCache, AnotherQuestionAboutASavedTextHasTheBitsOfAFreshRun) {
  for (const auto& listed : makers::zoo()) {
    SCOPED_TRACE(listed.model.name);
    const LoadedMember member(listed.model.name);
    const TestFolder folder;
    const auto document = member.text(1100, kSeed);
    const auto first = joined(document, member.text(30, 1));
    const auto second = joined(document, member.text(40, 2));
    {
      CachedRun run(member, folder);
      run.read(first);
      EXPECT_EQ(run.n_restored(), 0u);
      run.finish();
      EXPECT_EQ(run.counts().saved_tokens, first.size());
    }
    const Logits whole = ZooWalk(member.model, setting()).feed_all(second);
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
  const auto text = member.text(5000, kSeed);  // two packs
  const Logits whole = ZooWalk(member.model, setting()).feed_all(text);
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
  const auto text = member.text(1500, kSeed);
  const Logits whole = ZooWalk(member.model, setting()).feed_all(text);
  for (const uint32_t n : {400u, 700u, 1000u, 1500u}) {
    CachedRun run(member, folder);
    const Logits rest = run.read(std::span(text).first(n));
    run.finish("talk");
    EXPECT_TRUE(is_same(rest, std::span(whole).first(n).last(rest.size()))) << n;
  }
}

TEST(ContextCache, APromptThatWasStoppedIsSavedAsFarAsItWasRead) {
  for (const std::string name : {"llama3", "gemma3"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const TestFolder folder;
    const auto text = member.text(3000, kSeed);
    {
      CachedRun run(member, folder);
      run.begin(text);
      run.read_to(text, 6 * kChunk);  // three extents of a run that has more
      run.finish();
      EXPECT_EQ(run.counts().saved_tokens, 6 * kChunk);
    }
    const Logits whole = ZooWalk(member.model, setting()).feed_all(std::span(text).first(1000));
    CachedRun run(member, folder);
    const Logits rest = run.read(std::span(text).first(1000));
    EXPECT_EQ(run.n_restored(), 6 * kChunk);
    EXPECT_TRUE(is_same(rest, std::span(whole).last(rest.size())));
  }
}

TEST(ContextCache, APromptStoppedBeforeItsFirstStepLeavesTheSessionOfItsName) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  {
    CachedRun run(member, folder);
    run.read(member.text(600, kSeed));
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
  const auto text = member.text(1500, kSeed);
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

/// Without the first pack nobody could find a second one.
TEST(ContextCache, NothingIsSavedBehindAPackThatFailed) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(5000, kSeed);
  CachedRun run(member, folder, {.lock_wait = std::chrono::milliseconds(1)});
  run.begin(text);
  run.read_to(text, 2 * kChunk);  // the first pack is being written: its room was made
  {
    const auto directory =
        tiers::DurableDirectory::open(folder.path("contexts"), tiers::system_calls());
    const auto lock = directory->lock(std::chrono::seconds(10));
    // The publisher meets the lock; so may the start of the second pack.
    run.read_to(text, tiers::kPackPositionsMax);
    while (run.contexts().problem().empty()) std::this_thread::yield();
  }
  run.read_to(text, 5000);
  run.contexts().finish(run.walk(), run.sequence());
  EXPECT_NE(run.contexts().problem(), "");
  EXPECT_EQ(run.counts().saved_tokens, 0u);
}

/// No file of this process grows beyond `bytes` while it lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : on_excess_(std::signal(SIGXFSZ, SIG_IGN)) {
    EXPECT_EQ(getrlimit(RLIMIT_FSIZE, &before_), 0);
    const rlimit limit = {bytes, before_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, on_excess_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  void (*on_excess_)(int);
};

TEST(ContextCache, AFailedWriteHoldsNoExtentBack) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(1100, kSeed);
  {
    CachedRun run(member, folder);
    run.read(text);
    run.finish();
  }
  CachedRun run(member, folder);
  run.begin(text);  // its extents are on the disk only
  ContextCache elsewhere({.directory = folder.path("elsewhere"), .limits = {}, .saves = true},
                         run.cache(), kModel, "test");
  elsewhere.begin(run.sequence(), text);
  {
    const FileSizeLimit limit(4096);
    elsewhere.save_closed(run.cache(), run.sequence());
  }
  EXPECT_NE(elsewhere.problem(), "");
  const tiers::TransferQueue& transfers = *run.cache().store().transfers();
  EXPECT_EQ(transfers.n_free(), transfers.n_frames());
}

TEST(ContextCache, AHistoryThatWasEditedIsSavedAsItIsNow) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto first = member.text(700, kSeed);
  const auto edited = joined({first.begin(), first.begin() + 300}, member.text(700, 5));
  const Logits whole = ZooWalk(member.model, setting()).feed_all(edited);
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

/// Changes a byte in every 4,096 of the blocks of every pack; its end, which finding reads, stays.
uint32_t damage_packs(const TestFolder& folder) {
  uint32_t n = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path("contexts"))) {
    if (entry.path().extension() != ".pack") continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    for (uint64_t at = 100; at < entry.file_size() / 10 * 9; at += 4096) {
      file.seekg(static_cast<std::streamoff>(at));
      const int byte = file.get();
      file.seekp(static_cast<std::streamoff>(at));
      file.put(static_cast<char>(byte ^ 0x10));
    }
    ++n;
  }
  return n;
}

TEST(ContextCache, ADamagedBlockIsComputedAgain) {
  for (const std::string name : {"llama3", "gemma3"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const TestFolder folder;
    const auto text = member.text(1500, kSeed);
    const auto more = joined(text, member.text(50, 3));
    const Logits whole = ZooWalk(member.model, setting()).feed_all(more);
    {
      CachedRun run(member, folder);
      run.read(text);
      run.finish();
    }
    ASSERT_GT(damage_packs(folder), 0u);
    CachedRun run(member, folder);
    const Logits rest = run.read(more);
    EXPECT_TRUE(is_same(rest, std::span(whole).last(rest.size())));
    EXPECT_GT(run.store().corrupt_blocks + run.counts().damaged_packs, 0u);
  }
}

TEST(ContextCache, APackThatAStepFindsDamagedIsSavedAnew) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(1500, kSeed);
  const auto more = joined(text, member.text(50, 3));
  {
    CachedRun run(member, folder);
    run.read(text);
    run.finish();
  }
  ASSERT_GT(damage_packs(folder), 0u);
  const auto damaged = [&] {
    uint64_t n = 0;
    auto directory = tiers::PackDirectory::open(folder.path("contexts"), {});
    for (const tiers::PackEntry& pack : directory.packs())
      n += directory.verify_pack(pack.name)->n_bad_blocks;
    return n;
  };
  EXPECT_GT(damaged(), 0u);
  {
    CachedRun run(member, folder);
    // Whole extents alone, which are read by the step that uses them.
    run.begin(std::span(text).first(5 * kExtentPositions + 1));
    EXPECT_EQ(run.counts().damaged_packs, 0u);
    run.feed(run.sequence(), std::span(more).subspan(run.sequence().n_pos(), 100));
    run.finish();
    EXPECT_EQ(run.counts().damaged_packs, 1u);
  }
  EXPECT_EQ(damaged(), 0u);
  CachedRun run(member, folder);
  run.begin(text);
  EXPECT_GE(run.n_restored(), 5 * kExtentPositions);
}

TEST(ContextCache, WhatIsLostWhileItIsSavedIsComputedAgain) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(1100, kSeed);
  const Logits whole = ZooWalk(member.model, setting()).feed_all(text);
  {
    CachedRun run(member, folder);
    run.read(text);
    run.finish();
  }
  const auto elsewhere_options = [&] {
    return ContextCacheOptions{.directory = folder.path("elsewhere"), .limits = {}, .saves = true};
  };
  {
    CachedRun run(member, folder);
    run.begin(std::span(text).first(4 * kExtentPositions + 1));  // on the disk only
    ASSERT_GT(damage_packs(folder), 0u);
    ContextCache elsewhere(elsewhere_options(), run.cache(), kModel, "test");
    elsewhere.begin(run.sequence(), std::span(text).first(4 * kExtentPositions));
    elsewhere.save_closed(run.cache(), run.sequence());
    EXPECT_EQ(elsewhere.problem(), "");
    elsewhere.finish(run.walk(), run.sequence());
    EXPECT_EQ(elsewhere.problem(), "");
    EXPECT_GT(elsewhere.counts().repaired_extents, 0u);
    EXPECT_EQ(elsewhere.counts().saved_tokens, 4 * kExtentPositions);
  }
  ZooWalk walk(member.model, setting(), CachedRun::transfers(member));
  ContextCache elsewhere(elsewhere_options(), walk.cache(), kModel, "test");
  Sequence sequence = elsewhere.restore(walk.cache(), text);
  ASSERT_EQ(sequence.n_pos(), 4 * kExtentPositions);
  const Logits rest = walk.feed(sequence, std::span(text).subspan(sequence.n_pos()));
  EXPECT_TRUE(is_same(rest, std::span(whole).last(rest.size())));
  EXPECT_EQ(walk.cache().store().counts().corrupt_blocks, 0u);
}

TEST(ContextCache, RestoringAgainOpensNoFileAgain) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(600, kSeed);
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

TEST(ContextCache, AnAnswerIsFoundByItsBytes) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  // Tokens stand for "a", "aa", "aaa" or "b...": many ways to spell one text.
  const tiers::TokenBytes bytes_of = [](int32_t token, std::string& out) {
    out += token < 150 ? std::string(1 + static_cast<size_t>(token) % 3, 'a')
                       : "b" + std::to_string(token);
  };
  const auto prompt = member.text(700, kSeed);
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
  const auto text = member.text(5 * kExtentPositions, kSeed);
  const auto more = joined(text, member.text(50, 3));
  const Logits whole = ZooWalk(member.model, setting()).feed_all(more);
  {
    CachedRun run(member, folder);
    run.read(text);
    run.finish();
  }
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
  const auto text = member.text(600, kSeed);
  {
    CachedRun run(member, folder);
    run.read(text);
    run.finish();
  }
  const Logits whole = ZooWalk(member.model, setting()).feed_all(text);
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

/// A disk that, from hang() on, brings nothing to rest until it is told to.
class HungDisk : public tiers::DurableCalls {
 public:
  int sync(int descriptor) override {
    std::unique_lock lock(mutex_);
    released_.wait(lock, [&] { return is_released_; });
    return DurableCalls::sync(descriptor);
  }
  void hang() {
    const std::lock_guard lock(mutex_);
    is_released_ = false;
  }
  void release() {
    const std::lock_guard lock(mutex_);
    is_released_ = true;
    released_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable released_;
  bool is_released_ = true;
};

TEST(ContextCache, ADiskThatHangsEndsTheSavingAndNotTheProgram) {
  static HungDisk disk;  // outlives the thread that hangs in it
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(600, kSeed);
  ZooWalk walk(member.model, setting());
  {
    ContextCache contexts({.directory = folder.path("contexts"),
                           .limits = {},
                           .saves = true,
                           .wait_max = std::chrono::milliseconds(50),
                           .calls = &disk},
                          walk.cache(), kModel, "test");
    Sequence sequence = walk.sequence();
    contexts.begin(sequence, text);
    walk.feed(sequence, text);
    disk.hang();
    try {
      contexts.finish(walk.walk(), sequence);
      ADD_FAILURE() << "a hung disk was waited for";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kIo);
      EXPECT_FALSE(error.remedy().empty());
    }
    EXPECT_EQ(contexts.counts().saved_tokens, 0u);
  }
  disk.release();
}

TEST(ContextCache, WaitingForADiskThatHangsIsStopped) {
  static HungDisk disk;  // outlives the thread that hangs in it
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(600, kSeed);
  ZooWalk walk(member.model, setting());
  const std::atomic<bool> stopped = true;
  {
    ContextCache contexts({.directory = folder.path("contexts"),
                           .limits = {},
                           .saves = true,
                           .wait_max = std::chrono::hours(1),
                           .calls = &disk,
                           .cancel = &stopped},
                          walk.cache(), kModel, "test");
    Sequence sequence = walk.sequence();
    contexts.begin(sequence, text);
    walk.feed(sequence, text);
    disk.hang();
    try {
      contexts.finish(walk.walk(), sequence);
      ADD_FAILURE() << "a hung disk was waited for";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCancelled);
    }
  }
  disk.release();
}

}  // namespace
}  // namespace strata::engine
