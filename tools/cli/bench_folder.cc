#include "tools/cli/bench_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "base/error.h"

namespace strata::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = ".strata-bench-";
constexpr std::string_view kDrawn = "XXXXXX";  // what mkdtemp replaces

/// Whether a bench made it: its name, this user's, and private.
bool is_bench_folder(const fs::path& path) {
  const std::string name = path.filename().string();
  struct stat status {};
  return name.starts_with(kPrefix) && name.size() == kPrefix.size() + kDrawn.size() &&
         ::lstat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode) &&
         status.st_uid == ::geteuid() && (status.st_mode & 0777) == S_IRWXU;
}

/// The descriptor of a folder that nobody else has locked, now locked; -1 where that failed.
int lock_folder(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (descriptor < 0 || ::flock(descriptor, LOCK_EX | LOCK_NB) == 0) return descriptor;
  ::close(descriptor);
  return -1;
}

void remove_leftovers(const std::string& directory) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string path = entry.path().string();
    if (!is_bench_folder(entry.path())) continue;
    const int descriptor = lock_folder(path);
    if (descriptor < 0) continue;
    std::error_code ignored;  // another user's stays
    fs::remove_all(path, ignored);
    ::close(descriptor);
  }
}

}  // namespace

BenchFolder::BenchFolder(const std::string& directory) {
  std::error_code ignored;  // what cannot be made holds no folder either
  fs::create_directories(directory, ignored);
  remove_leftovers(directory);
  path_ = directory + "/" + std::string(kPrefix) + std::string(kDrawn);
  // Another bench that looks for leftovers between the two calls would remove the folder: then it
  // cannot be locked or written to, and this one ends with an error.
  if (::mkdtemp(path_.data()) != nullptr) descriptor_ = lock_folder(path_);
  if (descriptor_ < 0)
    throw Error(ErrorCode::kIo,
                "cannot make a folder in '" + directory + "': " + std::strerror(errno), directory,
                "name a folder that you may write to with --nvme");
}

BenchFolder::~BenchFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
  ::close(descriptor_);
}

void BenchFolder::forget_pages() const {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(path_, error))
    forget_pages_of(entry.path().string());
}

void BenchFolder::forget_pages_of(const std::string& file) {
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return;
  (void)::posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
  ::close(descriptor);
}

}  // namespace strata::cli
