// A device that does not answer: for threads, memory whose page faults nobody resolves (the system
// call hangs in the copy); for a ring, a pipe that nobody writes to.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>

#include "base/error.h"
#include "tests/tiers/fresh_folder.h"
#include "tiers/file.h"
#include "tiers/simulated_io.h"
#include "tiers/thread_io.h"
#include "tiers/transfer_queue.h"
#include "tiers/uring_io.h"
#include "tiers/wrapped_io.h"

namespace strata::tiers {
namespace {

using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;

constexpr uint32_t kPage = 4096;

/// A page that hangs whoever touches it until resolve(). It is never unmapped: a thread of an Io
/// that is gone may still write to it.
class HangingPage {
 public:
  static std::optional<HangingPage> make() {
    HangingPage page;
    page.faults_ = static_cast<int>(::syscall(__NR_userfaultfd, O_CLOEXEC));
    if (page.faults_ < 0) return std::nullopt;
    void* memory =
        ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page.memory_ = static_cast<std::byte*>(memory);
    uffdio_api api = {.api = UFFD_API, .features = 0, .ioctls = 0};
    uffdio_register region = {};
    region.range = page.range();
    region.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (::ioctl(page.faults_, UFFDIO_API, &api) != 0 ||
        ::ioctl(page.faults_, UFFDIO_REGISTER, &region) != 0)
      return std::nullopt;
    return page;
  }
  std::byte* memory() const { return memory_; }
  /// Returns when somebody hangs.
  void wait_for_fault() const {
    uffd_msg message = {};
    EXPECT_EQ(::read(faults_, &message, sizeof message), static_cast<ssize_t>(sizeof message));
  }
  void resolve() const {
    uffdio_zeropage zero = {};
    zero.range = range();
    EXPECT_EQ(::ioctl(faults_, UFFDIO_ZEROPAGE, &zero), 0) << std::strerror(errno);
  }

 private:
  uffdio_range range() const { return {reinterpret_cast<uintptr_t>(memory_), kPage}; }
  int faults_ = -1;
  std::byte* memory_ = nullptr;
};

constexpr const char* kNoFaults = "userfaultfd for system calls is forbidden here";

File written_file(const FreshFolder& folder) {
  std::ofstream(folder.path("a")) << std::string(kPage, 'x');
  return File::open_for_reading(folder.path("a"), false);
}

TEST(HungDevice, TimesOutAndItsTransferArrivesWhenItAnswers) {
  const auto page = HangingPage::make();
  if (!page) GTEST_SKIP() << kNoFaults;
  const FreshFolder folder;
  const File file = written_file(folder);
  ThreadIo io(2, 1);
  const IoRequest request = {
      .file = io.add_file(file), .memory = page->memory(), .bytes = kPage, .id = 5};
  ASSERT_EQ(io.submit({&request, 1}), 1u);
  page->wait_for_fault();
  IoCompletion one;
  EXPECT_EQ(io.wait({&one, 1}, 20ms), 0u);
  EXPECT_EQ(io.in_flight(), 1u);
  page->resolve();
  ASSERT_EQ(io.wait({&one, 1}, 60s), 1u);
  EXPECT_EQ(one.id, 5u);
  EXPECT_EQ(one.status, IoStatus::kOk);
  EXPECT_EQ(page->memory()[0], std::byte{'x'});
}

TEST(HungDevice, IsNotWaitedForAtTheEndOfThreads) {
  const auto page = HangingPage::make();
  if (!page) GTEST_SKIP() << kNoFaults;
  const FreshFolder folder;
  std::array<std::byte, kPage> untouched = {};
  {
    const File file = written_file(folder);
    ThreadIo io(3, 1);
    const IoFile handle = io.add_file(file);
    const std::array<IoRequest, 2> requests = {{
        {.file = handle, .memory = page->memory(), .bytes = kPage, .id = 1},
        {.file = handle, .memory = untouched.data(), .bytes = kPage, .id = 2},
    }};
    ASSERT_EQ(io.submit(requests), 2u);
    page->wait_for_fault();
  }  // hangs here where the destructor waits
  page->resolve();
  EXPECT_EQ(untouched[0], std::byte{0});  // what had not begun never does
}

/// Counts the waits that may take time.
class CountedWaits final : public WrappedIo {
 public:
  CountedWaits(std::unique_ptr<Io> io, uint32_t& n_waits)
      : WrappedIo(std::move(io)), n_waits_(n_waits) {}
  uint32_t submit(std::span<const IoRequest> requests) override { return io().submit(requests); }
  uint32_t wait(std::span<IoCompletion> out, std::chrono::microseconds timeout) override {
    if (timeout.count() > 0) ++n_waits_;
    return io().wait(out, timeout);
  }

 private:
  uint32_t& n_waits_;
};

TEST(HungDevice, IsNotWaitedForAtTheEndOfAQueue) {
  auto disk = std::make_unique<SimulatedIo>(SimulatedDisk{.faults = {.hang = 1}});
  const IoFile file = disk->add_memory_file(16 * kPage);
  uint32_t n_waits = 0;
  {
    TransferQueue queue(std::make_unique<CountedWaits>(std::move(disk), n_waits),
                        {.frame_bytes = kPage, .n_frames = 3});
    ReadLease lease;
    auto late = queue.read(file, 0, kPage);
    ASSERT_TRUE(late.has_value());
    EXPECT_EQ(queue.take_read(std::move(*late), lease), IoStatus::kTimedOut);
    EXPECT_GT(n_waits, 0u);
    const auto held = queue.read(file, kPage, kPage);
    auto fill = queue.take_frame();
    ASSERT_TRUE(held.has_value() && fill.has_value());
    (void)queue.write(std::move(*fill), file, 2 * kPage, kPage);
    EXPECT_EQ(queue.io().in_flight(), 3u);
    n_waits = 0;
  }
  EXPECT_EQ(n_waits, 0u);
}

class HungRing : public ::testing::TestWithParam<UringSetup> {};

TEST_P(HungRing, TimesOutAndIsNotWaitedForAtItsEnd) {
  std::unique_ptr<Io> io;
  try {
    io = open_uring_io(4, GetParam());
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  std::array<int, 2> ends;
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const File reader = File::adopt(ends[0], false, "pipe");
  const File writer = File::adopt(ends[1], false, "pipe");
  std::array<std::byte, kPage> memory = {};
  const IoRequest request = {
      .file = io->add_file(reader), .memory = memory.data(), .bytes = kPage, .id = 6};
  ASSERT_EQ(io->submit({&request, 1}), 1u);
  IoCompletion one;
  EXPECT_EQ(io->wait({&one, 1}, 0ms), 0u);
  EXPECT_EQ(io->wait({&one, 1}, 20ms), 0u);
  EXPECT_EQ(io->in_flight(), 1u);
  // Half of it is a short transfer, which the wait resumes: it still hangs for the other half.
  const std::string half(kPage / 2, 'x');
  ASSERT_EQ(::write(writer.descriptor(), half.data(), half.size()), kPage / 2);
  EXPECT_EQ(io->wait({&one, 1}, 20ms), 0u);
  EXPECT_EQ(memory[kPage / 2 - 1], std::byte{'x'});
  EXPECT_EQ(memory[kPage / 2], std::byte{0});
  ASSERT_EQ(::write(writer.descriptor(), half.data(), half.size()), kPage / 2);
  ASSERT_EQ(io->wait({&one, 1}, 60s), 1u);
  EXPECT_EQ(one.status, IoStatus::kOk);
  EXPECT_EQ(one.bytes, kPage);
  EXPECT_EQ(memory[kPage - 1], std::byte{'x'});
  ASSERT_EQ(io->submit({&request, 1}), 1u);
  io.reset();  // hangs here where the destructor waits
}

INSTANTIATE_TEST_SUITE_P(Setups, HungRing,
                         ::testing::Values(UringSetup::kSingleIssuer, UringSetup::kPlain));

}  // namespace
}  // namespace strata::tiers
