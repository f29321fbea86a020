#include "engine/mapped_file.h"

#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/check.h"

namespace strata::engine {
namespace {

/// Copies within this process as the kernel does it: a source that cannot be read is an error code.
int copy_guarded(const std::byte* from, std::span<std::byte> out) {
  while (!out.empty()) {
    const iovec local = {out.data(), out.size()};
    const iovec remote = {const_cast<std::byte*>(from), out.size()};
    const ssize_t n = ::process_vm_readv(::getpid(), &local, 1, &remote, 1, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return EFAULT;
    from += n;
    out = out.subspan(static_cast<size_t>(n));
  }
  return 0;
}

}  // namespace

std::optional<MappedFile> MappedFile::open(int descriptor, uint64_t bytes) {
  if (bytes == 0) return std::nullopt;
  std::byte probe{};
  std::byte copied{};
  if (copy_guarded(&probe, {&copied, 1}) != 0) return std::nullopt;
  void* data = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, 0);
  if (data == MAP_FAILED) return std::nullopt;
  MappedFile file;
  file.data_ = static_cast<std::byte*>(data);
  file.bytes_ = bytes;
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

int MappedFile::read(uint64_t offset, std::span<std::byte> out) const {
  STRATA_CHECK(offset <= bytes_ && out.size() <= bytes_ - offset, "%zu bytes at %lu of %lu",
               out.size(), static_cast<unsigned long>(offset), static_cast<unsigned long>(bytes_));
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t begin = offset / page * page;
  const uint64_t end = offset + out.size();
#ifdef MADV_POPULATE_READ
  // One large read instead of a fault per page. What it cannot do, the copy finds out.
  (void)::madvise(data_ + begin, end - begin, MADV_POPULATE_READ);
#endif
  const int error = copy_guarded(data_ + offset, out);
  // Mapped pages count as memory of this process. The page cache keeps them.
  (void)::madvise(data_ + begin, end - begin, MADV_DONTNEED);
  return error;
}

bool MappedFile::is_cached(uint64_t offset) const {
  STRATA_CHECK(offset < bytes_, "byte %lu of %lu", static_cast<unsigned long>(offset),
               static_cast<unsigned long>(bytes_));
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  unsigned char state = 0;
  return ::mincore(data_ + offset / page * page, 1, &state) != 0 || (state & 1) != 0;
}

}  // namespace strata::engine
