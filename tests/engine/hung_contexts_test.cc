// Saved contexts are looked for on a disk that stops answering: whoever waits for it is let go.
// What has to go well has no deadline here, since beside other tests anything may take long: where
// a disk hangs, waiting for it is stopped then and there.
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <set>

#include "tests/engine/cached_run.h"
#include "tiers/thread_io.h"
#include "tiers/wrapped_io.h"

namespace strata::engine {
namespace {

using std::chrono::milliseconds;
using testing::cached_setting;
using testing::CachedRun;
using testing::kCachedModel;
using testing::kCachedSeed;
using testing::LoadedMember;
using testing::save_text;
using testing::TestFolder;
using testing::WalkSetting;
using testing::ZooWalk;

constexpr milliseconds kSoon{50};

/// A disk whose calls of one kind, of files that end like `of`, do not return until release().
class HungCalls : public tiers::DurableCalls {
 public:
  enum class Call : uint8_t { kOpenDirectory, kList, kStatus, kOpen, kRead };

  HungCalls(Call call, std::string of) : call_(call), of_(std::move(of)) {}
  int open_directory(const std::string& path) override {
    wait_at(Call::kOpenDirectory, path);
    return DurableCalls::open_directory(path);
  }
  int list(int directory, std::vector<std::string>& names) override {
    wait_at(Call::kList, "");
    return DurableCalls::list(directory, names);
  }
  int status_at(int directory, const std::string& name, tiers::FileStatus& status) override {
    wait_at(Call::kStatus, name);
    return DurableCalls::status_at(directory, name, status);
  }
  int open_at(int directory, const std::string& name, tiers::OpenFor purpose) override {
    wait_at(Call::kOpen, name);
    const int opened = DurableCalls::open_at(directory, name, purpose);
    if (name.ends_with(of_)) note(opened);
    return opened;
  }
  int open_direct(int descriptor) override {
    const int opened = DurableCalls::open_direct(descriptor);
    if (is_noted(descriptor)) note(opened);
    return opened;
  }
  void close(int descriptor) override {
    {
      const std::lock_guard lock(mutex_);
      descriptors_.erase(descriptor);
    }
    DurableCalls::close(descriptor);
  }
  int64_t read_at(int descriptor, std::span<std::byte> bytes, uint64_t offset) override {
    if (is_noted(descriptor)) wait_at(Call::kRead, of_);
    return DurableCalls::read_at(descriptor, bytes, offset);
  }

  void hang() {
    const std::lock_guard lock(mutex_);
    hangs_ = true;
  }
  /// Set where a call has begun to wait; null: nobody wants to know.
  void stop_by(std::atomic<bool>* stopped) {
    const std::lock_guard lock(mutex_);
    stopped_ = stopped;
  }
  /// And waits until nobody is in a call that had to wait.
  void release() {
    std::unique_lock lock(mutex_);
    hangs_ = false;
    changed_.notify_all();
    changed_.wait(lock, [&] { return n_waiting_ == 0; });
  }
  uint32_t n_waited() const { return n_waited_; }

 private:
  void wait_at(Call call, const std::string& name) {
    if (call != call_ || !name.ends_with(of_)) return;
    std::unique_lock lock(mutex_);
    if (!hangs_) return;
    ++n_waited_;
    ++n_waiting_;
    if (stopped_ != nullptr) *stopped_ = true;
    changed_.wait(lock, [&] { return !hangs_; });
    --n_waiting_;
    changed_.notify_all();
  }
  void note(int descriptor) {
    const std::lock_guard lock(mutex_);
    descriptors_.insert(descriptor);
  }
  bool is_noted(int descriptor) {
    const std::lock_guard lock(mutex_);
    return descriptors_.contains(descriptor);
  }

  const Call call_;
  const std::string of_;
  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  bool hangs_ = false;
  uint32_t n_waiting_ = 0;
  std::atomic<uint32_t> n_waited_ = 0;
  std::set<int> descriptors_;  // of files that end so
  std::atomic<bool>* stopped_ = nullptr;
};
using Call = HungCalls::Call;

/// Outlives the threads that hang in it, which may end after main() does.
HungCalls& hung_disk(Call call, const std::string& of = "") {
  static auto& kept = *new std::vector<std::unique_ptr<HungCalls>>;
  return *kept.emplace_back(std::make_unique<HungCalls>(call, of));
}

/// Waiting is stopped where the disk hangs.
ContextCacheOptions options_of(const TestFolder& folder, HungCalls& disk,
                               std::atomic<bool>& stopped) {
  ContextCacheOptions options;
  options.directory = folder.path("contexts");
  options.saves = false;
  options.silence_max = std::chrono::hours(1);
  options.calls = &disk;
  options.cancel = &stopped;
  disk.stop_by(&stopped);
  return options;
}

std::optional<Error> error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

void expect_error(const std::optional<Error>& error, ErrorCode code) {
  ASSERT_TRUE(error) << "a hung disk was waited for";
  EXPECT_EQ(error->code(), code) << error->what();
  EXPECT_TRUE(code == ErrorCode::kCancelled || !error->remedy().empty());
}

TEST(HungContexts, ADiskThatDoesNotAnswerIsGivenUpInTime) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  ZooWalk walk(member.model, cached_setting(), CachedRun::transfers(member));
  HungCalls& disk = hung_disk(Call::kOpenDirectory);
  std::atomic<bool> stopped = false;
  ContextCacheOptions options = options_of(folder, disk, stopped);
  options.silence_max = kSoon;
  options.cancel = nullptr;
  disk.hang();
  const auto error =
      error_of([&] { const ContextCache contexts(options, walk.cache(), kCachedModel, "test"); });
  expect_error(error, ErrorCode::kIo);
  EXPECT_NE(std::string(error->what()).find("does not answer"), std::string::npos);
  disk.release();
}

TEST(HungContexts, ADiskThatAnswersSlowlyIsWaitedFor) {
  std::atomic<uint64_t> n_answers = 0;
  std::atomic<bool> is_done = false;
  const auto start = std::chrono::steady_clock::now();
  do_patiently(
      {kSoon, nullptr}, [&] { return ++n_answers; },
      [&] {
        while (std::chrono::steady_clock::now() - start < 4 * kSoon) std::this_thread::yield();
        is_done = true;
      });
  EXPECT_TRUE(is_done);
}

TEST(HungContexts, OpeningTheFolderEnds) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  save_text(member, folder, member.text(600, kCachedSeed));
  ZooWalk walk(member.model, cached_setting(), CachedRun::transfers(member));
  for (HungCalls* disk : {&hung_disk(Call::kList), &hung_disk(Call::kStatus, ".pack"),
                          &hung_disk(Call::kOpen, ".pack"), &hung_disk(Call::kRead, ".pack")}) {
    std::atomic<bool> stopped = false;
    const ContextCacheOptions options = options_of(folder, *disk, stopped);
    disk->hang();
    expect_error(
        error_of([&] { const ContextCache contexts(options, walk.cache(), kCachedModel, "test"); }),
        ErrorCode::kCancelled);
    EXPECT_EQ(disk->n_waited(), 1u);
    disk->stop_by(nullptr);
    disk->release();
  }
}

TEST(HungContexts, LookingUpEndsAndIsNotTriedAgainMeanwhile) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(600, kCachedSeed);
  save_text(member, folder, text);
  ZooWalk walk(member.model, cached_setting(), CachedRun::transfers(member));
  const auto bytes_of = [](int32_t, std::string& out) { out += "a"; };
  // Of a pack that is known: it is opened when it is found, and its tags are read.
  for (HungCalls* disk : {&hung_disk(Call::kList), &hung_disk(Call::kOpen, ".pack"),
                          &hung_disk(Call::kRead, ".pack")}) {
    std::atomic<bool> stopped = false;
    ContextCache contexts(options_of(folder, *disk, stopped), walk.cache(), kCachedModel, "test");
    ASSERT_EQ(contexts.n_saved(text), 600u);
    disk->hang();
    expect_error(error_of([&] { contexts.restore(walk.cache(), text); }), ErrorCode::kCancelled);
    stopped = false;
    // Those are refused at once: it would never be known who answers whom.
    expect_error(error_of([&] { contexts.restore(walk.cache(), text); }), ErrorCode::kIo);
    expect_error(error_of([&] { contexts.n_saved(text); }), ErrorCode::kIo);
    expect_error(error_of([&] { contexts.known_text("aaa", bytes_of); }), ErrorCode::kIo);
    EXPECT_EQ(disk->n_waited(), 1u);
    EXPECT_EQ(walk.cache().pool().n_free(), walk.cache().pool().n_slots());
    disk->release();
    // Well again, it is used again, once the work that was left has ended.
    while (error_of([&] { contexts.n_saved(text); })) std::this_thread::yield();
    EXPECT_EQ(contexts.restore(walk.cache(), text).n_pos(), 600u);
    disk->stop_by(nullptr);
  }
}

TEST(HungContexts, IndexRowsEndTheRestoring) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(1100, kCachedSeed);
  save_text(member, folder, text);
  WalkSetting setting = cached_setting();
  setting.method = index::Method::kQuest;
  setting.rule.budget = {index::Budget::Kind::kTokens, 512};
  {
    CachedRun run(member, folder, {}, setting, false);  // saves the rows beside the pack
    run.begin(text);
    run.feed_selected(std::span(text).subspan(run.n_restored()));
    run.finish();
  }
  for (HungCalls* disk : {&hung_disk(Call::kOpen, ".rows"), &hung_disk(Call::kRead, ".rows")}) {
    std::atomic<bool> stopped = false;
    ZooWalk walk(member.model, setting, CachedRun::transfers(member));
    ContextCache contexts(options_of(folder, *disk, stopped), walk.cache(), kCachedModel, "test");
    disk->hang();
    expect_error(error_of([&] { contexts.restore(walk.cache(), text); }), ErrorCode::kCancelled);
    EXPECT_GE(disk->n_waited(), 1u);
    EXPECT_EQ(walk.cache().pool().n_free(), walk.cache().pool().n_slots());
    disk->stop_by(nullptr);
    disk->release();
    stopped = false;
    const Sequence sequence = contexts.restore(walk.cache(), text);
    EXPECT_EQ(sequence.n_pos(), 1100u);
    EXPECT_EQ(contexts.counts().indexed_tokens, 1024u);
  }
}

/// Threads whose reads do not end while `hangs`; then who waits for one sets `stopped`, if any.
class HungIo final : public tiers::WrappedIo {
 public:
  HungIo(const std::atomic<bool>& hangs, std::atomic<bool>* stopped)
      : WrappedIo(std::make_unique<tiers::ThreadIo>(8, 2)), hangs_(hangs), stopped_(stopped) {}
  uint32_t submit(std::span<const tiers::IoRequest> requests) override {
    return io().submit(requests);
  }
  uint32_t wait(std::span<tiers::IoCompletion> out, std::chrono::microseconds timeout) override {
    if (!hangs_) return io().wait(out, timeout);
    if (stopped_ != nullptr) *stopped_ = true;
    return 0;
  }

 private:
  const std::atomic<bool>& hangs_;
  std::atomic<bool>* stopped_;
};

std::unique_ptr<tiers::Spill> hung_transfers(const LoadedMember& member,
                                             const std::atomic<bool>& hangs,
                                             std::chrono::microseconds deadline,
                                             std::atomic<bool>* stopped = nullptr) {
  auto spill = std::make_unique<tiers::Spill>();
  spill->transfers = std::make_unique<tiers::TransferQueue>(
      std::make_unique<HungIo>(hangs, stopped),
      tiers::TransferOptions{
          .frame_bytes = place_bytes(member.model.shape(), {.n_ctx = 8192, .chunk_rows = 128}),
          .n_frames = 8,
          .deadline = deadline});
  return spill;
}

/// The end of a text, and all that windows attend.
TEST(HungContexts, RowsThatAreReadAtOnceHaveADeadline) {
  for (const std::string name : {"llama3", "gemma3"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const TestFolder folder;
    const auto text = member.text(1100, kCachedSeed);
    save_text(member, folder, text);
    std::atomic<bool> hangs = true;
    std::atomic<bool> stopped = false;
    ContextCacheOptions options;
    options.directory = folder.path("contexts");
    options.saves = false;
    options.silence_max = std::chrono::hours(1);
    options.cancel = &stopped;
    {
      ZooWalk walk(member.model, cached_setting(), hung_transfers(member, hangs, kSoon));
      ContextCache contexts(options, walk.cache(), kCachedModel, "test");
      expect_error(error_of([&] { contexts.restore(walk.cache(), text); }), ErrorCode::kIo);
      EXPECT_EQ(walk.cache().pool().n_free(), walk.cache().pool().n_slots());
      EXPECT_EQ(walk.cache().store().transfers()->n_quarantined(), 1u);
      EXPECT_EQ(contexts.counts().damaged_packs, 0u);
    }
    ZooWalk walk(member.model, cached_setting(),
                 hung_transfers(member, hangs, std::chrono::hours(1), &stopped));
    ContextCache contexts(options, walk.cache(), kCachedModel, "test");
    expect_error(error_of([&] { contexts.restore(walk.cache(), text); }), ErrorCode::kCancelled);
    hangs = stopped = false;
    EXPECT_EQ(contexts.restore(walk.cache(), text).n_pos(), 1100u);
  }
}

}  // namespace
}  // namespace strata::engine
