#include "tiers/spill_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>

#include "base/error.h"
#include "base/host_memory.h"
#include "tests/tiers/child_process.h"
#include "tests/tiers/fresh_folder.h"
#include "tests/tiers/small_disk.h"
#include "tiers/open_io.h"
#include "tiers/spill_directory.h"

namespace strata::tiers {
namespace {

using std::chrono_literals::operator""s;

constexpr uint64_t kMiB = uint64_t{1} << 20;

uint64_t n_entries(const std::string& folder) {
  uint64_t n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) ++n;
  return n;
}

mode_t mode_of(const std::string& path) {
  struct stat status = {};
  EXPECT_EQ(::stat(path.c_str(), &status), 0) << path;
  return status.st_mode & 07777;
}

Error error_of(const std::string& folder, uint64_t budget_bytes, uint64_t extent_bytes) {
  try {
    SpillFile::create(folder, budget_bytes, extent_bytes);
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "created in " << folder;
  return Error(ErrorCode::kCancelled, "");
}

/// Writes to the place at `offset` and reads it back.
void demand_that_a_place_holds(const SpillFile& spill, uint64_t offset) {
  std::string notice;
  const auto io = open_io(IoChoice::kThreads, 1, notice);
  const HostMemory memory = HostMemory::reserve(spill.extent_bytes());
  std::fill_n(memory.data(), spill.extent_bytes(), std::byte{0x37});
  IoRequest request = {.op = IoOp::kWrite,
                       .file = io->add_file(spill.file()),
                       .offset = offset,
                       .memory = memory.data(),
                       .bytes = static_cast<uint32_t>(spill.extent_bytes())};
  for (const IoOp op : {IoOp::kWrite, IoOp::kRead}) {
    request.op = op;
    IoCompletion one;
    demand(io->submit({&request, 1}) == 1 && io->wait({&one, 1}, 60s) == 1, "no completion");
    demand(one.status == IoStatus::kOk, std::string(io_status_name(one.status)));
    if (op == IoOp::kWrite) std::fill_n(memory.data(), spill.extent_bytes(), std::byte{0});
  }
  demand(memory.data()[spill.extent_bytes() - 1] == std::byte{0x37}, "other bytes came back");
}

TEST(SpillFile, TheFirstFreePlaceAtOrBehindTheWantedOneIsTaken) {
  const FreshFolder folder;
  SpillFile spill = SpillFile::create(folder.path(), 70 * 4096, 4096);  // more than a word of bits
  const auto take = [&](uint64_t place) { return *spill.take(place * 4096) / 4096; };
  EXPECT_EQ(take(63), 63u);
  EXPECT_EQ(take(63), 64u);
  EXPECT_EQ(take(3), 3u);
  EXPECT_EQ(take(68), 68u);
  EXPECT_EQ(take(68), 69u);
  EXPECT_EQ(take(68), 0u);  // none behind it
  EXPECT_EQ(take(500), 1u);
  spill.give_back(63 * 4096);
  EXPECT_EQ(take(10), 10u);
  EXPECT_EQ(take(62), 62u);
  EXPECT_EQ(take(62), 63u);
}

TEST(SpillFile, RandomTakesAndReturnsStayInTheBudget) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  const FreshFolder folder;
  for (int round = 0; round < 20; ++round) {
    const uint64_t wanted_extent = 1 + random() % 100000;
    const uint64_t budget = 200000 + random() % (8 * kMiB);
    SpillFile spill = SpillFile::create(folder.path(), budget, wanted_extent);
    const uint64_t extent = spill.extent_bytes();
    ASSERT_GE(extent, wanted_extent);
    ASSERT_EQ(extent % 4096, 0u);
    ASSERT_EQ(extent % spill.file().alignment(), 0u);
    std::vector<uint64_t> held;
    std::set<uint64_t> offsets;
    uint64_t peak = 0;
    for (int i = 0; i < 2000; ++i) {
      if (random() % 5 < 3) {
        const auto offset = spill.take();
        ASSERT_EQ(offset.has_value(), (held.size() + 1) * extent <= budget);
        if (offset) {
          ASSERT_TRUE(offsets.insert(*offset).second);
          ASSERT_EQ(*offset % extent, 0u);
          ASSERT_LE(*offset + extent, spill.reserved_bytes());
          held.push_back(*offset);
        }
      } else if (!held.empty()) {
        std::swap(held[random() % held.size()], held.back());
        spill.give_back(held.back());
        offsets.erase(held.back());
        held.pop_back();
      }
      peak = std::max<uint64_t>(peak, held.size() * extent);
      ASSERT_EQ(spill.used_bytes(), held.size() * extent);
      ASSERT_EQ(spill.peak_bytes(), peak);
      ASSERT_LE(spill.reserved_bytes(), budget);
    }
    ASSERT_EQ(spill.file().size_bytes(), spill.reserved_bytes());
    if (!held.empty()) {
      ASSERT_NO_THROW(demand_that_a_place_holds(spill, held.back()));
    }
  }
}

TEST(SpillFile, ReservesTheDiskBeforeItIsWritten) {
  const FreshFolder folder;
  SpillFile spill = SpillFile::create(folder.path(), 8 * kMiB, 65536);
  if (!spill.notice().empty()) GTEST_SKIP() << spill.notice();
  struct stat status = {};
  EXPECT_EQ(spill.reserved_bytes(), 8 * kMiB);
  ASSERT_EQ(::fstat(spill.file().descriptor(), &status), 0);
  EXPECT_EQ(static_cast<uint64_t>(status.st_size), 8 * kMiB);
  EXPECT_GE(static_cast<uint64_t>(status.st_blocks) * 512, 8 * kMiB);
}

TEST(SpillFile, IsDirectWhereTheFileSystemIs) {
  const FreshFolder folder;
  const std::string probe = folder.path("probe");
  const int descriptor = ::open(probe.c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
  if (descriptor < 0) GTEST_SKIP() << "no O_DIRECT in " << folder.path();
  ::close(descriptor);
  const SpillFile spill = SpillFile::create(folder.path(), kMiB, 4096);
  EXPECT_TRUE(spill.file().is_direct());
  EXPECT_NE(::fcntl(spill.file().descriptor(), F_GETFL) & O_DIRECT, 0);
  EXPECT_EQ(spill.notice().find("page cache"), std::string::npos) << spill.notice();
}

TEST(SpillFile, IsNeverListed) {
  const FreshFolder folder;
  const SpillFile spill = SpillFile::create(folder.path(), kMiB, 4096);
  EXPECT_EQ(n_entries(folder.path()), 0u);
  struct stat status = {};
  ASSERT_EQ(::fstat(spill.file().descriptor(), &status), 0);
  EXPECT_EQ(status.st_nlink, 0u);
}

TEST(SpillFile, AndItsFoldersAreTheOwnersAloneUnderEveryUmask) {
  for (const mode_t mask : {0000u, 0022u, 0077u, 0177u, 0377u, 0777u}) {
    const FreshFolder folder;
    const std::string inner = folder.path("a/b");
    const mode_t before = ::umask(mask);
    std::optional<SpillFile> spill;
    try {
      spill = SpillFile::create(inner, kMiB, 4096);
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
    ::umask(before);
    if (!spill) continue;
    struct stat status = {};
    ASSERT_EQ(::fstat(spill->file().descriptor(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0600u) << mask;
    EXPECT_EQ(mode_of(folder.path("a")), 0700u) << mask;
    EXPECT_EQ(mode_of(inner), 0700u) << mask;
  }
}

TEST(SpillFile, LeavesTheModeOfAFolderThatWasThere) {
  const FreshFolder folder;
  ASSERT_EQ(::chmod(folder.path().c_str(), 0755), 0);
  SpillFile::create(folder.path(), kMiB, 4096);
  EXPECT_EQ(mode_of(folder.path()), 0755u);
}

TEST(SpillFile, IsRefusedInMemory) {
  struct statfs status = {};
  if (::statfs("/dev/shm", &status) != 0 || status.f_type != TMPFS_MAGIC)
    GTEST_SKIP() << "/dev/shm is no tmpfs here";
  const std::string outer = "/dev/shm/strata_" + std::to_string(::getpid());
  const Error error = error_of(outer + "/inner", kMiB, 4096);
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_NE(std::string(error.what()).find("tmpfs"), std::string::npos) << error.what();
  EXPECT_EQ(error.where(), outer + "/inner");
  EXPECT_NE(error.remedy().find("disk"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(outer));
}

TEST(SpillFile, ABudgetBelowOneExtentIsRefusedAndLeavesNothing) {
  const FreshFolder folder;
  EXPECT_EQ(error_of(folder.path("a/b"), 65535, 65536).code(), ErrorCode::kDoesNotFit);
  EXPECT_EQ(error_of(folder.path("a/b"), UINT64_MAX, UINT64_MAX).code(), ErrorCode::kDoesNotFit);
  EXPECT_EQ(n_entries(folder.path()), 0u);
}

TEST(SpillFile, AFolderThatIsAFileIsRefused) {
  const FreshFolder folder;
  std::ofstream(folder.path("a")) << "x";
  EXPECT_EQ(error_of(folder.path("a"), kMiB, 4096).code(), ErrorCode::kIo);
  EXPECT_EQ(error_of(folder.path("a/b"), kMiB, 4096).code(), ErrorCode::kIo);
}

TEST(SpillFileDeathTest, ReturningAPlaceTwiceIsABug) {
  const FreshFolder folder;
  SpillFile spill = SpillFile::create(folder.path(), kMiB, 4096);
  const uint64_t offset = *spill.take();
  EXPECT_DEATH(spill.give_back(offset + 1), "offset 1 is not taken");
  spill.give_back(offset);
  EXPECT_DEATH(spill.give_back(offset), "offset 0 is not taken");
}

constexpr uint32_t kUnnamedBit = O_TMPFILE & ~O_DIRECTORY;

TEST(SpillFile, WithoutUnnamedFilesItIsUnlinkedAtOnce) {
  const FreshFolder folder;
  STRATA_EXPECT_CHILD_PASSES(run_in_child([&] {
    forbid_call(__NR_openat, EOPNOTSUPP, 2, kUnnamedBit);
    SpillFile spill = SpillFile::create(folder.path(), kMiB, 4096);
    demand(spill.notice().find("no unnamed files") != std::string::npos, spill.notice());
    demand(spill.notice().find('\n') == std::string::npos, spill.notice());
    demand(n_entries(folder.path()) == 0, "a file is listed");
    struct stat status = {};
    demand(::fstat(spill.file().descriptor(), &status) == 0 && status.st_nlink == 0, "has a name");
    demand((status.st_mode & 07777) == 0600, "mode");
    demand_that_a_place_holds(spill, *spill.take());
  }));
}

TEST(SpillFile, WithoutDirectAccessItUsesThePageCache) {
  const FreshFolder folder;
  STRATA_EXPECT_CHILD_PASSES(run_in_child([&] {
    forbid_call(__NR_fcntl, EINVAL, 2, O_DIRECT);
    SpillFile spill = SpillFile::create(folder.path(), kMiB, 4096);
    demand(!spill.file().is_direct() && spill.file().alignment() == 1, "is direct");
    demand(spill.notice().find("page cache") != std::string::npos, spill.notice());
    demand_that_a_place_holds(spill, *spill.take());
  }));
}

TEST(SpillFile, WithoutReservingItGrowsByWrites) {
  const FreshFolder folder;
  STRATA_EXPECT_CHILD_PASSES(run_in_child([&] {
    forbid_call(__NR_fallocate, EOPNOTSUPP);
    SpillFile spill = SpillFile::create(folder.path(), kMiB, 65536);
    demand(spill.notice().find("cannot reserve room") != std::string::npos, spill.notice());
    for (int i = 0; i < 16; ++i) demand(spill.take().has_value(), "take");
    demand(!spill.take(), "more than the budget");
    demand_that_a_place_holds(spill, 15 * 65536);
  }));
}

TEST(SpillFile, AFullDiskAtTheStartIsAnErrorThatLeavesNothing) {
  const FreshFolder folder;
  STRATA_EXPECT_CHILD_PASSES(run_in_child([&] {
    forbid_call(__NR_fallocate, ENOSPC);
    try {
      SpillFile::create(folder.path("a"), kMiB, 4096);
    } catch (const Error& error) {
      demand(error.code() == ErrorCode::kIo, "code");
      demand(std::string(error.what()).find("No space left") != std::string::npos, error.what());
      demand(!error.remedy().empty(), "no remedy");
      demand(n_entries(folder.path()) == 0, "a folder is left");
      return;
    }
    demand(false, "created");
  }));
}

TEST(SpillFile, ALimitOnFileSizesIsAFullDiskAndNotASignal) {
  const FreshFolder folder;
  STRATA_EXPECT_CHILD_PASSES(run_in_child([&] {
    const rlimit limit = {3 * kMiB / 2, 3 * kMiB / 2};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) throw NotPossibleHere("no limit on file sizes");
    demand(error_of(folder.path(), 2 * kMiB, 65536).code() == ErrorCode::kIo, "code");
    SpillFile spill = SpillFile::create(folder.path(), kMiB, 65536);
    for (int i = 0; i < 16; ++i) demand(spill.take().has_value(), "take");
    demand(!spill.take(), "more than the budget");
  }));
}

/// A child that holds a spill file of `budget_bytes`, all of it taken, until it is killed.
class SpillingChild {
 public:
  SpillingChild(const std::string& folder, uint64_t budget_bytes) {
    std::array<int, 2> ends;
    demand(::pipe(ends.data()) == 0, "no pipe");
    child_ = ::fork();
    demand(child_ >= 0, "no child");
    if (child_ == 0) {
      SpillFile spill = SpillFile::create(folder, budget_bytes, 65536);
      while (const auto offset = spill.take()) demand_that_a_place_holds(spill, *offset);
      const bool is_told = ::write(ends[1], "x", 1) == 1;
      while (is_told) ::pause();
      ::_exit(1);
    }
    ::close(ends[1]);
    char told = 0;
    is_spilling_ = ::read(ends[0], &told, 1) == 1;
    ::close(ends[0]);
  }
  bool is_spilling() const { return is_spilling_; }
  /// True where the child died of this.
  bool kill() const {
    ::kill(child_, SIGKILL);
    int status = 0;
    ::waitpid(child_, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  }

 private:
  pid_t child_ = -1;
  bool is_spilling_ = false;
};

TEST(SpillFile, KillLeavesNoFile) {
  const FreshFolder folder;
  const SpillingChild child(folder.path(), kMiB);
  EXPECT_TRUE(child.is_spilling());
  EXPECT_EQ(n_entries(folder.path()), 0u);
  EXPECT_TRUE(child.kill());
  EXPECT_EQ(n_entries(folder.path()), 0u);
}

TEST(SmallDisk, KillFreesTheBytes) {
  const FreshFolder folder;
  STRATA_EXPECT_CHILD_PASSES(run_in_child([&] {
    const std::string disk = mount_small_disk(folder.path());
    const uint64_t before = free_bytes(disk);
    const SpillingChild child(disk, 16 * kMiB);
    demand(child.is_spilling(), "does not spill");
    demand(free_bytes(disk) + 16 * kMiB <= before, "takes no room");
    demand(child.kill(), "is not killed");
    demand(free_bytes(disk) == before, "bytes are not free again");
  }));
}

TEST(SmallDisk, WithLessRoomThanTheBudgetIsRefusedAndKeepsNothing) {
  const FreshFolder folder;
  STRATA_EXPECT_CHILD_PASSES(run_in_child([&] {
    const std::string disk = mount_small_disk(folder.path());
    const uint64_t before = free_bytes(disk);
    const Error error = error_of(disk, 160 * kMiB, 65536);
    demand(error.code() == ErrorCode::kIo, "code");
    demand(std::string(error.what()).find("cannot reserve 160 MiB") != std::string::npos,
           error.what());
    demand(error.remedy().find("smaller context") != std::string::npos, error.remedy());
    demand(free_bytes(disk) == before, "room is kept");
  }));
}

TEST(SpillDirectory, AFolderThatAnotherProcessTookAwayIsMadeAgain) {
  const FreshFolder folder;
  SpillDirectory opened(folder.path() + "/spill");
  std::filesystem::remove(folder.path() + "/spill");
  std::string notice;
  (void)opened.make_file(notice);
  EXPECT_TRUE(std::filesystem::is_directory(folder.path() + "/spill"));
}

}  // namespace
}  // namespace strata::tiers
