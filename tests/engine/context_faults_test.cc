// Saved contexts on disks that fail, fill up, lie or hang.
#include <gtest/gtest.h>

#include <sys/resource.h>

#include <condition_variable>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <thread>

#include "tests/engine/cached_run.h"

namespace strata::engine {
namespace {

using testing::cached_setting;
using testing::CachedRun;
using testing::damage_packs;
using testing::is_same;
using testing::joined;
using testing::kCachedChunk;
using testing::kCachedModel;
using testing::kCachedSeed;
using testing::LoadedMember;
using testing::Logits;
using testing::save_text;
using testing::TestFolder;
using testing::ZooWalk;

/// Without the first pack nobody could find a second one.
TEST(ContextFaults, NothingIsSavedBehindAPackThatFailed) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(5000, kCachedSeed);
  CachedRun run(member, folder, {.lock_wait = std::chrono::milliseconds(1)});
  run.begin(text);
  run.read_to(text, 2 * kCachedChunk);  // the first pack is being written: its room was made
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

TEST(ContextFaults, AFailedWriteHoldsNoExtentBack) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(1100, kCachedSeed);
  save_text(member, folder, text);
  CachedRun run(member, folder);
  run.begin(text);  // its extents are on the disk only
  ContextCache elsewhere({.directory = folder.path("elsewhere"), .limits = {}, .saves = true},
                         run.cache(), kCachedModel, "test");
  elsewhere.begin(run.sequence(), text);
  {
    const FileSizeLimit limit(4096);
    elsewhere.save_closed(run.cache(), run.sequence());
  }
  EXPECT_NE(elsewhere.problem(), "");
  const tiers::TransferQueue& transfers = *run.cache().store().transfers();
  EXPECT_EQ(transfers.n_free(), transfers.n_frames());
}

/// Changes a byte of the only pack, or changes it back.
void flip_byte(const TestFolder& folder, double share) {
  for (const auto& entry : std::filesystem::directory_iterator(folder.path("contexts"))) {
    if (entry.path().extension() != ".pack") continue;
    const auto at = static_cast<std::streamoff>(share * static_cast<double>(entry.file_size()));
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at);
    const int byte = file.get();
    file.seekp(at);
    file.put(static_cast<char>(byte ^ 0x10));
  }
}

/// In the memory that a run has which spills nothing, and not a block more: whatever is damaged of
/// a context that fills it.
TEST(ContextFaults, ADamagedBlockIsComputedAgainInTheMemoryOfAFullContext) {
  for (const std::string name : {"llama3", "gemma3"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const TestFolder folder;
    const auto text = member.text(500, kCachedSeed);  // windows are a large part of its K and V
    const auto more = joined(text, member.text(36, 3));
    const Logits whole = ZooWalk(member.model, cached_setting()).feed_all(more);
    save_text(member, folder, text);
    testing::WalkSetting setting = cached_setting();
    setting.n_ctx = static_cast<uint32_t>(more.size());
    const KvContext context{
        .n_ctx = setting.n_ctx, .chunk_rows = setting.chunk_rows, .has_packs = true};
    setting.kv_dram_bytes = place_whole(member.model.shape(), context).slot_bytes;
    uint64_t n_lost = 0;
    for (double share = 0.04; share < 0.9; share += 0.04) {
      SCOPED_TRACE("a byte at " + std::to_string(share) + " of the pack");
      flip_byte(folder, share);
      CachedRun run(member, folder, {}, setting, /*saves=*/false);
      const Logits rest = run.read(more);
      EXPECT_TRUE(is_same(rest, std::span(whole).last(rest.size())));
      n_lost += run.store().lost_extents;
      flip_byte(folder, share);
    }
    EXPECT_GT(n_lost, 0u);
  }
}

TEST(ContextFaults, ADamagedBlockIsComputedAgain) {
  for (const std::string name : {"llama3", "gemma3"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const TestFolder folder;
    const auto text = member.text(1500, kCachedSeed);
    const auto more = joined(text, member.text(50, 3));
    const Logits whole = ZooWalk(member.model, cached_setting()).feed_all(more);
    save_text(member, folder, text);
    ASSERT_GT(damage_packs(folder), 0u);
    CachedRun run(member, folder);
    const Logits rest = run.read(more);
    EXPECT_TRUE(is_same(rest, std::span(whole).last(rest.size())));
    EXPECT_GT(run.store().corrupt_blocks + run.counts().damaged_packs, 0u);
  }
}

TEST(ContextFaults, APackThatAStepFindsDamagedIsSavedAnew) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(1500, kCachedSeed);
  const auto more = joined(text, member.text(50, 3));
  save_text(member, folder, text);
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

TEST(ContextFaults, WhatIsLostWhileItIsSavedIsComputedAgain) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(1100, kCachedSeed);
  const Logits whole = ZooWalk(member.model, cached_setting()).feed_all(text);
  save_text(member, folder, text);
  const auto elsewhere_options = [&] {
    return ContextCacheOptions{.directory = folder.path("elsewhere"), .limits = {}, .saves = true};
  };
  {
    CachedRun run(member, folder);
    run.begin(std::span(text).first(4 * kExtentPositions + 1));  // on the disk only
    ASSERT_GT(damage_packs(folder), 0u);
    ContextCache elsewhere(elsewhere_options(), run.cache(), kCachedModel, "test");
    elsewhere.begin(run.sequence(), std::span(text).first(4 * kExtentPositions));
    elsewhere.save_closed(run.cache(), run.sequence());
    EXPECT_EQ(elsewhere.problem(), "");
    elsewhere.finish(run.walk(), run.sequence());
    EXPECT_EQ(elsewhere.problem(), "");
    EXPECT_GT(elsewhere.counts().repaired_extents, 0u);
    EXPECT_EQ(elsewhere.counts().saved_tokens, 4 * kExtentPositions);
  }
  ZooWalk walk(member.model, cached_setting(), CachedRun::transfers(member));
  ContextCache elsewhere(elsewhere_options(), walk.cache(), kCachedModel, "test");
  Sequence sequence = elsewhere.restore(walk.cache(), text);
  ASSERT_EQ(sequence.n_pos(), 4 * kExtentPositions);
  const Logits rest = walk.feed(sequence, std::span(text).subspan(sequence.n_pos()));
  EXPECT_TRUE(is_same(rest, std::span(whole).last(rest.size())));
  EXPECT_EQ(walk.cache().store().counts().corrupt_blocks, 0u);
}

/// A disk that, from hang() on, brings nothing but the next n_first to rest until it is told to.
class HungDisk : public tiers::DurableCalls {
 public:
  int sync(int descriptor) override {
    std::unique_lock lock(mutex_);
    if (!is_released_ && n_first_ > 0) {
      --n_first_;
    } else {
      ++n_waiting_;
      released_.notify_all();
      released_.wait(lock, [&] { return is_released_; });
      --n_waiting_;
    }
    return DurableCalls::sync(descriptor);
  }
  void hang(uint32_t n_first = 0) {
    const std::lock_guard lock(mutex_);
    is_released_ = false;
    n_first_ = n_first;
  }
  void wait_until_asked() {
    std::unique_lock lock(mutex_);
    released_.wait(lock, [&] { return n_waiting_ > 0; });
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
  uint32_t n_first_ = 0, n_waiting_ = 0;
};

/// Saves a text on a disk that hangs from the end of the reading on; the error that finish() ends
/// with. `options` without folder and disk.
std::optional<Error> error_of_hung_disk(ContextCacheOptions options) {
  // Outlives the threads that hang in it, which may end after main() does.
  static HungDisk& disk = *new HungDisk;
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(600, kCachedSeed);
  ZooWalk walk(member.model, cached_setting());
  options.directory = folder.path("contexts");
  options.calls = &disk;
  std::optional<Error> ended;
  {
    ContextCache contexts(options, walk.cache(), kCachedModel, "test");
    Sequence sequence = walk.sequence();
    contexts.begin(sequence, text);
    walk.feed(sequence, text);
    disk.hang();
    try {
      contexts.finish(walk.walk(), sequence);
    } catch (const Error& error) {
      ended = error;
    }
    EXPECT_EQ(contexts.counts().saved_tokens, 0u);
  }
  disk.release();
  return ended;
}

TEST(ContextFaults, ADiskThatHangsEndsTheSavingAndNotTheProgram) {
  const auto error = error_of_hung_disk(
      {.directory = "", .limits = {}, .saves = true, .wait_max = std::chrono::milliseconds(50)});
  ASSERT_TRUE(error) << "a hung disk was waited for";
  EXPECT_EQ(error->code(), ErrorCode::kIo);
  EXPECT_FALSE(error->remedy().empty());
}

TEST(ContextFaults, WaitingForADiskThatHangsIsStopped) {
  const std::atomic<bool> stopped = true;
  const auto error = error_of_hung_disk({.directory = "",
                                         .limits = {},
                                         .saves = true,
                                         .wait_max = std::chrono::hours(1),
                                         .cancel = &stopped});
  ASSERT_TRUE(error) << "a hung disk was waited for";
  EXPECT_EQ(error->code(), ErrorCode::kCancelled);
}

/// The name of a pack is on its way to a disk that hangs, under the lock of the directory.
TEST(ContextFaults, LookingUpAndSavingWaitForNoName) {
  static HungDisk& disk = *new HungDisk;  // as above
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto saved = member.text(600, kCachedSeed), named = member.text(600, kCachedSeed + 1),
             next = member.text(600, kCachedSeed + 2);
  save_text(member, folder, saved);
  ZooWalk walk(member.model, cached_setting(), CachedRun::transfers(member));
  {
    ContextCache contexts({.directory = folder.path("contexts"),
                           .limits = {},
                           .saves = true,
                           .wait_max = std::chrono::seconds(20),
                           .calls = &disk},
                          walk.cache(), kCachedModel, "test");
    const auto read = [&](ContextCache& cache, Sequence& sequence, std::span<const int32_t> text) {
      cache.begin(sequence, text);
      walk.feed(sequence, text);
      cache.save_closed(walk.cache(), sequence);
    };
    Sequence first = walk.sequence();
    disk.hang(1);  // the file comes to rest, its name does not
    read(contexts, first, named);
    disk.wait_until_asked();
    EXPECT_EQ(contexts.n_saved(saved), 600u);
    const auto bytes_of = [](int32_t, std::string& out) { out += "a"; };
    EXPECT_EQ(contexts.known_text("aaa", bytes_of).n_bytes, 0u);  // nothing was generated
    EXPECT_EQ(contexts.beside()->restore(walk.cache(), saved).n_pos(), 600u);
    const auto beside = contexts.beside();
    Sequence second = walk.sequence();
    read(*beside, second, next);
    EXPECT_EQ(contexts.problem(), "");
    disk.release();
    beside->finish(walk.walk(), second);
    EXPECT_EQ(contexts.problem(), "");
    EXPECT_EQ(contexts.counts().saved_tokens, 1200u);
  }
}

/// "Save nothing" writes nothing in place of a damaged pack, and so takes none away.
TEST(ContextFaults, ADamagedPackStaysWhereNothingIsSaved) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(5 * kExtentPositions, kCachedSeed);
  save_text(member, folder, text);
  const uint32_t n_packs = damage_packs(folder);
  ASSERT_GT(n_packs, 0u);
  ZooWalk walk(member.model, cached_setting(), CachedRun::transfers(member));
  ContextCache contexts({.directory = folder.path("contexts"), .limits = {}, .saves = false},
                        walk.cache(), kCachedModel, "test");
  Sequence sequence = contexts.restore(walk.cache(), text);
  ASSERT_EQ(sequence.n_pos(), text.size());
  contexts.begin(sequence, text);
  walk.feed(sequence, member.text(1, 3));  // meets the damage
  EXPECT_GT(walk.cache().store().counts().lost_extents, 0u);
  contexts.finish(walk.walk(), sequence);
  EXPECT_EQ(contexts.counts().damaged_packs, 0u);
  EXPECT_EQ(tiers::PackDirectory::open(folder.path("contexts"), {}).n_packs(), n_packs);
}

}  // namespace
}  // namespace strata::engine
