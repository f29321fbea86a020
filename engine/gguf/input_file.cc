#include "engine/gguf/input_file.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace strata::engine {
namespace {

constexpr uint64_t kReadBytesMax = uint64_t{1} << 30;  // Linux moves at most 2 GiB - 4 KiB per call

std::string system_text(int error) { return std::generic_category().message(error); }

int64_t modified_ns_of(const struct stat& status) {
  return int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
}

}  // namespace

InputFile::InputFile(std::string path, int descriptor, uint64_t size)
    : path_(std::move(path)), descriptor_(descriptor), size_(size) {}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_),
      modified_ns_(other.modified_ns_) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  std::swap(modified_ns_, other.modified_ns_);
  return *this;
}

InputFile::~InputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

InputFile InputFile::open(const std::string& path) {
  // Without O_NONBLOCK, opening a FIFO would wait for a writer for ever; regular files ignore it.
  InputFile file(path, -1, 0);
  const int descriptor = file.descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0)
    throw Error(ErrorCode::kIo, fmt::format("cannot open the file: {}", system_text(errno)), path,
                "check the path and that you may read it");
  struct stat status = {};
  if (::fstat(descriptor, &status) != 0)
    throw Error(ErrorCode::kIo, fmt::format("cannot stat the file: {}", system_text(errno)), path);
  if (!S_ISREG(status.st_mode))
    throw Error(ErrorCode::kIo, "wanted a regular file, found a directory or device", path,
                "name the .gguf file itself");
  file.size_ = static_cast<uint64_t>(status.st_size);
  file.modified_ns_ = modified_ns_of(status);
  return file;
}

void InputFile::check_unchanged() const {
  struct stat status = {};
  if (::fstat(descriptor_, &status) != 0)
    throw Error(ErrorCode::kIo, fmt::format("cannot stat the file: {}", system_text(errno)), path_);
  const auto size = static_cast<uint64_t>(status.st_size);
  if (size == size_ && modified_ns_of(status) == modified_ns_) return;
  throw Error(ErrorCode::kIo,
              size == size_ ? std::string("the file was written to after it was opened")
                            : fmt::format("wanted the file of {} bytes that was opened, found {}",
                                          size_, size),
              fmt::format("{}: offset {}", path_, std::min(size, size_)),
              "do not change a model file while it is in use; start again");
}

void InputFile::read(uint64_t offset, std::span<std::byte> out, const std::string& what) const {
  while (!out.empty()) {
    const auto n_wanted = static_cast<size_t>(std::min<uint64_t>(out.size(), kReadBytesMax));
    const ssize_t n_read = ::pread(descriptor_, out.data(), n_wanted, static_cast<off_t>(offset));
    if (n_read < 0 && errno == EINTR) continue;
    const auto where = [&] { return fmt::format("{}: {}, offset {}", path_, what, offset); };
    if (n_read < 0)
      throw Error(ErrorCode::kIo, fmt::format("cannot read: {}", system_text(errno)), where(),
                  "check the disk that holds the file");
    if (n_read == 0)
      throw Error(ErrorCode::kIo,
                  fmt::format("wanted {} more bytes, found the end of the file: it was cut short "
                              "after it was opened",
                              out.size()),
                  where(), "do not change a model file while it is in use");
    offset += static_cast<uint64_t>(n_read);
    out = out.subspan(static_cast<size_t>(n_read));
  }
}

}  // namespace strata::engine
