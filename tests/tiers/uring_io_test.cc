// What a ring has registered is what its requests use, and how many calls they take.
#include "tiers/uring_io.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <memory>
#include <span>

#include "base/error.h"
#include "tests/tiers/child_process.h"
#include "tests/tiers/fresh_folder.h"
#include "tiers/file.h"

namespace strata::tiers {
namespace {

using std::chrono_literals::operator""s;

constexpr uint32_t kPageBytes = 4096;
constexpr uint64_t kMappedBytes = 16 * kPageBytes;

/// A ring of so many entries, or nothing where there are none.
std::unique_ptr<Io> ring_of(uint32_t depth) {
  try {
    return open_uring_io(depth);
  } catch (const Error&) {
    return nullptr;
  }
}

constexpr const char* kNoRings = "no io_uring here";

/// Pages that can be replaced at their addresses.
class MappedPages {
 public:
  MappedPages() { replace(0); }
  ~MappedPages() { ::munmap(memory_.data(), memory_.size()); }
  MappedPages(const MappedPages&) = delete;
  MappedPages& operator=(const MappedPages&) = delete;
  std::span<std::byte> bytes() const { return memory_; }
  /// From now on zeros in other memory are at the same addresses.
  void replace() { replace(MAP_FIXED); }

 private:
  void replace(int flags) {
    void* const at = ::mmap(memory_.data(), kMappedBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    ASSERT_NE(at, MAP_FAILED);
    memory_ = {static_cast<std::byte*>(at), kMappedBytes};
  }
  std::span<std::byte> memory_;
};

File file_of(const FreshFolder& folder, const std::string& name, char letter) {
  const std::string path = folder.path(name);
  std::ofstream(path) << std::string(kPageBytes, letter);
  return File::adopt(::open(path.c_str(), O_RDWR | O_CLOEXEC), false, path);
}

IoCompletion ended(Io& io, const IoRequest& request) {
  IoCompletion one;
  EXPECT_EQ(io.submit({&request, 1}), 1u);
  EXPECT_EQ(io.wait({&one, 1}, 60s), 1u);
  return one;
}

/// The ring holds the file itself and not its number.
TEST(UringIo, AFileIsRegisteredOnceAndUsedAsItWasThen) {
  const auto io = ring_of(2);
  if (io == nullptr) GTEST_SKIP() << kNoRings;
  const FreshFolder folder;
  const File file = file_of(folder, "a", 'a'), other = file_of(folder, "b", 'b');
  const IoFile handle = io->add_file(file);
  ASSERT_EQ(::dup3(other.descriptor(), file.descriptor(), O_CLOEXEC), file.descriptor());
  MappedPages pages;
  const IoCompletion done =
      ended(*io, {.file = handle, .memory = pages.bytes().data(), .bytes = kPageBytes});
  EXPECT_EQ(done.status, IoStatus::kOk);
  EXPECT_EQ(pages.bytes()[0], std::byte{'a'});
}

/// The ring holds the pages themselves and not their addresses, once for all transfers.
TEST(UringIo, PreparedMemoryIsMovedAsItWasRegistered) {
  const auto io = ring_of(2);
  if (io == nullptr) GTEST_SKIP() << kNoRings;
  const FreshFolder folder;
  const File file = file_of(folder, "a", 'a');
  const IoFile handle = io->add_file(file);
  MappedPages pages;
  std::ranges::fill(pages.bytes(), std::byte{'z'});
  const uint64_t prepared = io->prepare_memory(pages.bytes().first(kMappedBytes / 2));
  if (prepared == 0) GTEST_SKIP() << "no memory may be locked here";
  ASSERT_EQ(prepared, kMappedBytes / 2);
  pages.replace();
  const auto request = [&](IoOp op, uint64_t at) {
    return IoRequest{
        .op = op, .file = handle, .memory = pages.bytes().data() + at, .bytes = kPageBytes};
  };
  // What is beside it moves by its address.
  EXPECT_EQ(ended(*io, request(IoOp::kRead, kMappedBytes / 2)).status, IoStatus::kOk);
  EXPECT_EQ(pages.bytes()[kMappedBytes / 2], std::byte{'a'});
  EXPECT_EQ(ended(*io, request(IoOp::kRead, 0)).status, IoStatus::kOk);
  EXPECT_EQ(pages.bytes()[0], std::byte{0});
  EXPECT_EQ(ended(*io, request(IoOp::kWrite, kPageBytes)).status, IoStatus::kOk);
  char written = 0;
  ASSERT_EQ(::pread(file.descriptor(), &written, 1, 0), 1);
  EXPECT_EQ(written, 'z');
}

TEST(UringIo, AllRequestsOfASubmitTakeOneCall) {
  if (ring_of(1) == nullptr) GTEST_SKIP() << kNoRings;
  const FreshFolder folder;
  const File file = file_of(folder, "a", 'a');
  STRATA_EXPECT_CHILD_PASSES(run_in_child([&] {
    constexpr uint32_t kRequests = 16;
    const auto io = open_uring_io(kRequests);
    const IoFile handle = io->add_file(file);
    std::atomic<uint64_t> n_calls = 0;
    ask_before_call(__NR_io_uring_enter, [&](uint64_t) {
      ++n_calls;
      return 0;
    });
    const MappedPages pages;
    std::vector<IoRequest> requests;
    for (uint32_t i = 0; i < kRequests; ++i)
      requests.push_back({.file = handle,
                          .memory = pages.bytes().data() + i * kPageBytes,
                          .bytes = kPageBytes,
                          .id = i});
    demand(io->submit(requests) == kRequests, "not all were taken");
    demand(n_calls == 1, std::to_string(n_calls) + " calls");
    std::vector<IoCompletion> out(kRequests);
    for (uint32_t n = 0; n < kRequests;) {
      const uint32_t n_more = io->wait(out, 60s);
      demand(n_more > 0, "no completion");
      n += n_more;
    }
    for (uint32_t i = 0; i < kRequests; ++i)
      demand(pages.bytes()[i * kPageBytes] == std::byte{'a'}, std::to_string(i));
  }));
}

}  // namespace
}  // namespace strata::tiers
