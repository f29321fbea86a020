#include "tiers/open_io.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/host_memory.h"
#include "tests/tiers/child_process.h"
#include "tests/tiers/fresh_folder.h"
#include "tiers/file.h"
#include "tiers/uring_io.h"

namespace strata::tiers {
namespace {

using std::chrono_literals::operator""s;

constexpr uint64_t kMemory = uint64_t{32} << 20;
constexpr uint32_t kPart = 1 << 20;

File open_for_writing(const FreshFolder& folder) {
  const std::string path = folder.path("a");
  return File::adopt(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600), false, path);
}

void move_all(Io& io, IoOp op, IoFile file, const HostMemory& memory) {
  std::vector<IoRequest> requests;
  for (uint64_t offset = 0; offset < kMemory; offset += kPart)
    requests.push_back({.op = op,
                        .file = file,
                        .offset = offset,
                        .memory = memory.data() + offset,
                        .bytes = kPart,
                        .id = offset});
  std::span<const IoRequest> rest = requests;
  std::vector<IoCompletion> out(4);
  for (size_t n_done = 0; n_done < requests.size();) {
    rest = rest.subspan(io.submit(rest));
    const uint32_t n = io.wait(out, 60s);
    demand(n > 0, "no completion");
    for (uint32_t i = 0; i < n; ++i)
      demand(out[i].status == IoStatus::kOk, std::string(io_status_name(out[i].status)));
    n_done += n;
  }
}

/// Writes the memory to the file and reads it back into the same, wiped memory.
void demand_that_bytes_move(Io& io, const File& file, const HostMemory& memory) {
  const IoFile handle = io.add_file(file);
  for (uint64_t i = 0; i < kMemory; i += 512) memory.data()[i] = static_cast<std::byte>(i / 512);
  move_all(io, IoOp::kWrite, handle, memory);
  std::memset(memory.data(), 0, kMemory);
  move_all(io, IoOp::kRead, handle, memory);
  for (uint64_t i = 0; i < kMemory; i += 512)
    demand(memory.data()[i] == static_cast<std::byte>(i / 512), "wrong byte " + std::to_string(i));
}

bool has_rings() {
  try {
    open_uring_io(1);
    return true;
  } catch (const Error&) {
    return false;
  }
}

TEST(OpenIo, TakesARingWhereThereIsOne) {
  if (!has_rings()) GTEST_SKIP() << "no io_uring here";
  std::string notice = "before";
  EXPECT_EQ(open_io(IoChoice::kAuto, 4, notice)->name(), "io_uring");
  EXPECT_EQ(notice, "");
  EXPECT_EQ(open_io(IoChoice::kUring, 4, notice)->depth(), 4u);
}

TEST(OpenIo, TakesThreadsWhenAsked) {
  std::string notice = "before";
  EXPECT_EQ(open_io(IoChoice::kThreads, 4, notice)->name(), "threads");
  EXPECT_EQ(notice, "");
}

struct Refusal {
  std::string name;
  long call;
  int error_number;
};

class RefusedRing : public ::testing::TestWithParam<Refusal> {};

TEST_P(RefusedRing, IsReplacedByThreadsWithOneLineOfNotice) {
  const FreshFolder folder;
  const File file = open_for_writing(folder);
  STRATA_EXPECT_CHILD_PASSES(run_in_child([&] {
    forbid_call(GetParam().call, GetParam().error_number);
    std::string notice;
    const auto io = open_io(IoChoice::kAuto, 4, notice);
    demand(io->name() == "threads", "took " + std::string(io->name()));
    demand(notice.find(std::strerror(GetParam().error_number)) != std::string::npos ||
               notice.find("reading and writing") != std::string::npos,
           notice);
    demand(notice.find('\n') == std::string::npos, "more than a line: " + notice);
    const HostMemory memory = HostMemory::reserve(kMemory);
    io->prepare_memory(memory.as<std::byte>(kMemory));
    demand_that_bytes_move(*io, file, memory);
  }));
}

TEST_P(RefusedRing, IsAnErrorWhereARingWasAskedFor) {
  STRATA_EXPECT_CHILD_PASSES(run_in_child([&] {
    forbid_call(GetParam().call, GetParam().error_number);
    std::string notice;
    try {
      open_io(IoChoice::kUring, 4, notice);
    } catch (const Error& error) {
      demand(error.code() == ErrorCode::kIo, error.what());
      demand(!error.remedy().empty(), "no remedy");
      return;
    }
    demand(false, "a ring was opened");
  }));
}

INSTANTIATE_TEST_SUITE_P(Calls, RefusedRing,
                         ::testing::Values(Refusal{"SetupNotPermitted", __NR_io_uring_setup, EPERM},
                                           Refusal{"SetupUnknown", __NR_io_uring_setup, ENOSYS},
                                           Refusal{"SetupOutOfMemory", __NR_io_uring_setup, ENOMEM},
                                           Refusal{"EnterNotPermitted", __NR_io_uring_enter, EPERM},
                                           Refusal{"RegisterNotPermitted", __NR_io_uring_register,
                                                   EPERM}),
                         [](const auto& instance) { return instance.param.name; });

/// The kernel has no memory for a request, is busy, or a signal comes: again and again, and not for
/// ever. What it refused is handed in again; nothing is lost or moved twice.
class RefusedEnter : public ::testing::TestWithParam<Refusal> {};

TEST_P(RefusedEnter, IsTriedAgainUntilAllBytesHaveMoved) {
  if (!has_rings()) GTEST_SKIP() << "no io_uring here";
  const FreshFolder folder;
  const File file = open_for_writing(folder);
  STRATA_EXPECT_CHILD_PASSES(run_in_child([&] {
    std::atomic<uint64_t> n_refused = 0;
    ask_before_call(GetParam().call, [&](uint64_t n) {
      if (n % 5 == 4) return 0;
      ++n_refused;
      return GetParam().error_number;
    });
    std::string notice;
    for (const uint32_t depth : {4u, 1u}) {  // and with a queue that one request fills
      const auto io = open_io(IoChoice::kUring, depth, notice);
      const HostMemory memory = HostMemory::reserve(kMemory);
      io->prepare_memory(memory.as<std::byte>(kMemory));
      demand_that_bytes_move(*io, file, memory);
      demand(io->in_flight() == 0, std::to_string(io->in_flight()) + " in flight");
    }
    demand(n_refused > 64, std::to_string(n_refused) + " calls refused");
  }));
}

TEST_P(RefusedEnter, ForGoodEndsAWaitAtItsTimeAndTheBytesMoveLater) {
  if (!has_rings()) GTEST_SKIP() << "no io_uring here";
  const FreshFolder folder;
  const File file = open_for_writing(folder);
  STRATA_EXPECT_CHILD_PASSES(run_in_child([&] {
    const auto io = open_uring_io(4);
    const HostMemory memory = HostMemory::reserve(kMemory);
    io->prepare_memory(memory.as<std::byte>(kMemory));
    const IoFile handle = io->add_file(file);
    std::atomic<bool> is_refused = true;
    ask_before_call(GetParam().call,
                    [&](uint64_t) { return is_refused ? GetParam().error_number : 0; });
    const IoRequest request = {.op = IoOp::kWrite,
                               .file = handle,
                               .offset = 0,
                               .memory = memory.data(),
                               .bytes = kPart,
                               .id = 7};
    demand(io->submit({&request, 1}) == 1, "not taken");
    IoCompletion out;
    demand(io->wait({&out, 1}, std::chrono::milliseconds(50)) == 0, "a completion of nothing");
    demand(io->in_flight() == 1, "it is forgotten");
    is_refused = false;
    demand(io->wait({&out, 1}, 60s) == 1, "no completion");
    demand(out.id == 7 && out.status == IoStatus::kOk, std::string(io_status_name(out.status)));
  }));
}

INSTANTIATE_TEST_SUITE_P(Errors, RefusedEnter,
                         ::testing::Values(Refusal{"NoMemory", __NR_io_uring_enter, EAGAIN},
                                           Refusal{"Interrupted", __NR_io_uring_enter, EINTR},
                                           Refusal{"Busy", __NR_io_uring_enter, EBUSY}),
                         [](const auto& instance) { return instance.param.name; });

/// Moves bytes as nobody, who may lock only so many bytes; all of them may be prepared at most.
std::string run_under_limit(uint64_t locked_bytes) {
  const FreshFolder folder;
  const File file = open_for_writing(folder);
  return run_in_child([&] {
    become_nobody(locked_bytes);
    std::string notice;
    const auto io = open_io(IoChoice::kAuto, 4, notice);
    demand((io->name() == "threads") == !notice.empty(), notice);
    const HostMemory memory = HostMemory::reserve(kMemory);
    const uint64_t prepared = io->prepare_memory(memory.as<std::byte>(kMemory));
    demand(prepared <= locked_bytes, "prepared " + std::to_string(prepared));
    demand_that_bytes_move(*io, file, memory);
  });
}

TEST(LockedMemoryLimit, LeavesAPrefixPreparedAndTheRestWorking) {
  STRATA_EXPECT_CHILD_PASSES(run_under_limit(uint64_t{8} << 20));
}

TEST(LockedMemoryLimit, OfNothingLeavesTransfersWorking) {
  STRATA_EXPECT_CHILD_PASSES(run_under_limit(0));
}

TEST(LockedMemoryLimit, AboveTheMemoryRegistersAll) {
  if (!has_rings()) GTEST_SKIP() << "no io_uring here";
  if (getuid() != 0) GTEST_SKIP() << "the limit binds all but root";
  const HostMemory memory = HostMemory::reserve(kMemory);
  const auto io = open_uring_io(4);
  EXPECT_EQ(io->prepare_memory(memory.as<std::byte>(kMemory)), kMemory);
  EXPECT_EQ(io->prepare_memory(memory.as<std::byte>(kMemory / 2)), kMemory / 2);
  const FreshFolder folder;
  const File file = open_for_writing(folder);
  EXPECT_NO_THROW(demand_that_bytes_move(*io, file, memory));
}

}  // namespace
}  // namespace strata::tiers
