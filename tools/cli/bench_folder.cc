#include "tools/cli/bench_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "base/error.h"

namespace strata::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = "bench-";

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
    if (!entry.path().filename().string().starts_with(kPrefix)) continue;
    const int descriptor = lock_folder(path);
    if (descriptor < 0) continue;
    std::error_code ignored;  // another user's stays
    fs::remove_all(path, ignored);
    ::close(descriptor);
  }
}

}  // namespace

BenchFolder::BenchFolder(const std::string& directory) {
  remove_leftovers(directory);
  path_ = directory + "/" + kPrefix + "XXXXXX";
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
  for (const auto& entry : fs::directory_iterator(path_, error)) {
    const int descriptor = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) continue;
    (void)::posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
    ::close(descriptor);
  }
}

}  // namespace strata::cli
