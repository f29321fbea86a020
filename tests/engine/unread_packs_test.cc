// Saved contexts that the disk does not give while a step reads them: they stay until what was
// computed in their place is saved.
#include <gtest/gtest.h>

#include "tests/engine/cached_run.h"
#include "tests/tiers/sick_disk.h"
#include "tiers/thread_io.h"
#include "tiers/wrapped_io.h"

namespace strata::engine {
namespace {

using testing::cached_setting;
using testing::CachedRun;
using testing::damage_packs;
using testing::joined;
using testing::kCachedModel;
using testing::kCachedSeed;
using testing::LoadedMember;
using testing::save_text;
using testing::TestFolder;
using testing::ZooWalk;

/// Threads whose reads fail while the disk is sick.
class SickIo final : public tiers::WrappedIo {
 public:
  explicit SickIo(const tiers::SickDisk& disk)
      : WrappedIo(std::make_unique<tiers::ThreadIo>(8, 2)), disk_(disk) {}
  uint32_t submit(std::span<const tiers::IoRequest> requests) override {
    return io().submit(requests);
  }
  uint32_t wait(std::span<tiers::IoCompletion> out, std::chrono::microseconds timeout) override {
    const uint32_t n = io().wait(out, timeout);
    for (tiers::IoCompletion& completion : out.first(n))
      if (disk_.is_sick)
        completion = {
            .id = completion.id, .status = tiers::IoStatus::kDeviceError, .error_number = EIO};
    return n;
  }

 private:
  const tiers::SickDisk& disk_;
};

/// Outlives the threads that name packs, which end after their publisher.
tiers::SickDisk& sick_disk() {
  static tiers::SickDisk& disk = *new tiers::SickDisk;
  return disk;
}

struct Verdict {
  uint32_t n_packs = 0;
  uint64_t n_bad_blocks = 0;
};

/// By a disk that is well.
Verdict verdict_of(const TestFolder& folder) {
  Verdict verdict;
  auto directory = tiers::PackDirectory::open(folder.path("contexts"), {});
  for (const tiers::PackEntry& pack : directory.packs()) {
    ++verdict.n_packs;
    verdict.n_bad_blocks += directory.verify_pack(pack.name)->n_bad_blocks;
  }
  return verdict;
}

/// Restores the first five extents of a saved text, meets the loss of its only pack in a step, and
/// saves what it has then.
class UnreadPacks : public ::testing::Test {
 protected:
  void save() { save_text(member_, folder_, text_); }
  void read_on_a_sick_disk(std::span<const int32_t> prompt) {
    auto spill = std::make_unique<tiers::Spill>();
    spill->transfers = std::make_unique<tiers::TransferQueue>(
        std::make_unique<SickIo>(disk_),
        tiers::TransferOptions{
            .frame_bytes = place_bytes(member_.model.shape(), {.n_ctx = 8192, .chunk_rows = 128}),
            .n_frames = 8});
    ZooWalk walk(member_.model, cached_setting(), std::move(spill));
    ContextCache contexts(
        {.directory = folder_.path("contexts"), .limits = {}, .saves = true, .calls = &disk_},
        walk.cache(), kCachedModel, "test");
    Sequence sequence = contexts.restore(walk.cache(), prompt.first(5 * kExtentPositions));
    ASSERT_EQ(sequence.n_pos(), 5 * kExtentPositions);
    contexts.begin(sequence, prompt);
    for (const auto& file : std::filesystem::directory_iterator(folder_.path("contexts")))
      if (file.path().extension() == ".pack") disk_.lose(file.path());
    ASSERT_TRUE(disk_.is_sick);
    walk.feed(sequence, prompt.subspan(sequence.n_pos()));
    EXPECT_GT(walk.cache().store().counts().lost_extents, 0u);
    contexts.finish(walk.walk(), sequence);
    problem_ = contexts.problem();
    EXPECT_EQ(contexts.counts().damaged_packs, 0u);
    n_unread_ = contexts.counts().unread_packs;
    disk_.is_sick = disk_.takes_nothing = false;
  }

  const LoadedMember member_{"llama3"};
  const TestFolder folder_;
  const std::vector<int32_t> text_ = member_.text(1500, kCachedSeed);
  tiers::SickDisk& disk_ = sick_disk();
  std::string problem_;
  uint64_t n_unread_ = 0;
};

/// Its last rows, which restoring reads, are wrong, and then the disk does not give it.
TEST_F(UnreadPacks, EndWhatIsRestoredBeforeThem) {
  const auto text = member_.text(4600, kCachedSeed);
  save_text(member_, folder_, text);
  ZooWalk walk(member_.model, cached_setting(), CachedRun::transfers(member_));
  ContextCache contexts(
      {.directory = folder_.path("contexts"), .limits = {}, .saves = true, .calls = &disk_},
      walk.cache(), kCachedModel, "test");
  for (const auto& file : std::filesystem::directory_iterator(folder_.path("contexts"))) {
    if (file.path().extension() != ".pack" || file.file_size() > 2'000'000) continue;
    disk_.lose(file.path());
    disk_.lost_end = 4096;
  }
  ASSERT_TRUE(disk_.is_sick);
  ASSERT_GT(damage_packs(folder_), 1u);
  EXPECT_EQ(contexts.restore(walk.cache(), text).n_pos(), 4096u);
  EXPECT_EQ(contexts.counts().unread_packs, 1u);
  EXPECT_EQ(contexts.counts().damaged_packs, 0u);
  disk_.is_sick = false;
  disk_.lost_end = UINT64_MAX;
  EXPECT_EQ(verdict_of(folder_).n_packs, 2u);
}

TEST_F(UnreadPacks, StayWhereTheDiskTakesNothing) {
  for (const uint32_t n_read : {1500u, 1400u}) {  // as long as the pack, and shorter
    save();
    disk_.takes_nothing = true;
    read_on_a_sick_disk(std::span(text_).first(n_read));
    EXPECT_NE(problem_, "");
    EXPECT_EQ(n_unread_, 0u);  // saved anew
    const Verdict verdict = verdict_of(folder_);
    EXPECT_EQ(verdict.n_packs, 1u);
    EXPECT_EQ(verdict.n_bad_blocks, 0u);
    CachedRun run(member_, folder_);
    run.begin(text_);
    EXPECT_EQ(run.n_restored(), 1499u / kBlockPositions * kBlockPositions);
  }
}

/// One of the same name is replaced, one of a shorter text goes behind the new one's; a longer one,
/// which holds what nobody has computed anew, stays.
TEST_F(UnreadPacks, GoWhenAllThatTheyHoldIsSavedAnew) {
  const auto longer = joined(text_, member_.text(100, kCachedSeed + 1));
  for (const uint32_t n_read : {1500u, 1530u, 1400u}) {
    SCOPED_TRACE(std::to_string(n_read) + " positions are read");
    std::filesystem::remove_all(folder_.path("contexts"));
    save();
    read_on_a_sick_disk(std::span(longer).first(n_read));
    EXPECT_EQ(problem_, "");
    EXPECT_EQ(n_unread_, 1u);
    const Verdict verdict = verdict_of(folder_);
    EXPECT_EQ(verdict.n_packs, n_read == 1400 ? 2u : 1u);
    EXPECT_EQ(verdict.n_bad_blocks, 0u);
    CachedRun run(member_, folder_);
    run.begin(longer);
    EXPECT_EQ(run.n_restored(), n_read == 1530 ? 1530u : 1500u);
  }
}

}  // namespace
}  // namespace strata::engine
