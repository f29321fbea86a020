#include "tiers/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/error.h"

namespace strata::tiers {
namespace {

// Every block size that NVMe devices are formatted with divides it.
constexpr uint32_t kUsualAlignment = 4096;

uint32_t direct_alignment(int descriptor) {
#ifdef STATX_DIOALIGN
  struct statx status = {};
  if (statx(descriptor, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
      (status.stx_mask & STATX_DIOALIGN) != 0) {
    const uint32_t wanted = std::max(status.stx_dio_mem_align, status.stx_dio_offset_align);
    if (status.stx_dio_offset_align != 0 && std::has_single_bit(wanted)) return wanted;
  }
#endif
  return kUsualAlignment;
}

[[noreturn]] void refuse(const std::string& what, const std::string& path, int error_number) {
  throw Error(ErrorCode::kIo, what + " '" + path + "': " + std::strerror(error_number), path,
              "check that the file exists, that you may read it, and that its disk answers");
}

}  // namespace

File File::open_for_reading(const std::string& path, bool direct) {
  // Without O_NONBLOCK the opening of a named pipe would wait for a writer.
  constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
  bool is_direct = direct;
  std::string name = path;  // before there is a descriptor to lose
  int descriptor = ::open(path.c_str(), direct ? kFlags | O_DIRECT : kFlags);
  if (descriptor < 0 && direct && (errno == EINVAL || errno == EOPNOTSUPP)) {
    is_direct = false;  // the file system has only the page cache
    descriptor = ::open(path.c_str(), kFlags);
  }
  if (descriptor < 0) refuse("cannot open", path, errno);
  File file = adopt(descriptor, is_direct, std::move(name));
  struct stat status = {};
  if (fstat(descriptor, &status) != 0) refuse("cannot examine", path, errno);
  if (S_ISDIR(status.st_mode)) refuse("cannot read", path, EISDIR);
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
    throw Error(ErrorCode::kIo,
                "cannot read '" + path + "' at an offset: it is neither a file nor a disk", path,
                "name a regular file");
  // A ring would answer EAGAIN for such a file where it has to wait for the disk.
  const int flags = fcntl(descriptor, F_GETFL);
  if (flags < 0 || fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK) != 0)
    refuse("cannot examine", path, errno);
  return file;
}

File File::adopt(int descriptor, bool is_direct, std::string name) {
  STRATA_CHECK(descriptor >= 0, "descriptor=%d", descriptor);
  File file;
  file.descriptor_ = descriptor;
  file.is_direct_ = is_direct;
  file.alignment_ = is_direct ? direct_alignment(descriptor) : 1;
  file.name_ = std::move(name);
  return file;
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

File::File(File&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      is_direct_(other.is_direct_),
      alignment_(other.alignment_),
      name_(std::move(other.name_)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(is_direct_, other.is_direct_);
  std::swap(alignment_, other.alignment_);
  std::swap(name_, other.name_);
  return *this;
}

uint64_t File::size_bytes() const {
  // A seek also knows the size of a block device, which fstat gives as 0; no transfer of ours uses
  // the descriptor's position.
  const off_t end = ::lseek(descriptor_, 0, SEEK_END);
  if (end < 0) refuse("cannot find the size of", name_, errno);
  return static_cast<uint64_t>(end);
}

}  // namespace strata::tiers
