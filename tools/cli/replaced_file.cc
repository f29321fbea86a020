#include "tools/cli/replaced_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"

namespace strata::cli {
namespace {

/// Writes and syncs a new file; 0, or the system's error.
int write_whole(const std::string& path, std::string_view text) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return errno;
  int error_number = 0;
  while (error_number == 0 && !text.empty()) {
    const ssize_t n = ::write(file, text.data(), text.size());
    if (n > 0) text.remove_prefix(static_cast<size_t>(n));
    if (n < 0 && errno != EINTR) error_number = errno;
    if (n == 0) error_number = EIO;  // a file system that takes nothing and does not say why
  }
  if (error_number == 0 && ::fsync(file) != 0) error_number = errno;
  if (::close(file) != 0 && error_number == 0) error_number = errno;
  return error_number;
}

/// So that the name lasts, too. A file system that cannot sync folders loses the file at worst.
void sync_folder(const std::filesystem::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

}  // namespace

void replace_cache_file(const std::string& path, std::string_view text, std::string_view what) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  const std::string written = fmt::format("{}.{}", path, ::getpid());
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  int error_number = failed ? failed.value() : write_whole(written, text);
  if (error_number == 0 && ::rename(written.c_str(), path.c_str()) != 0) error_number = errno;
  if (error_number == 0) return sync_folder(folder);
  ::unlink(written.c_str());
  throw Error(ErrorCode::kIo, fmt::format("cannot write {}: {}", what, std::strerror(error_number)),
              path, "check that the folder may be written, or set XDG_CACHE_HOME");
}

}  // namespace strata::cli
