#include "tiers/spill_directory.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"

namespace strata::tiers {
namespace {

constexpr mode_t kFolderMode = 0700;  // both hold the conversation
constexpr mode_t kFileMode = 0600;
constexpr int kMaxNames = 10;

[[noreturn]] void refuse(const std::string& action, const std::string& directory,
                         int error_number) {
  throw Error(ErrorCode::kIo,
              "cannot " + action + " '" + directory + "': " + std::strerror(error_number),
              directory, "name a folder for spilled blocks that you may write to");
}

void add_sentence(std::string& notice, const std::string& sentence) {
  if (!notice.empty()) notice += "; ";
  notice += sentence;
}

/// What openat says for O_TMPFILE where the file system or the kernel does not know it.
bool lacks_unnamed_files(int error_number) {
  return error_number == EOPNOTSUPP || error_number == EISDIR || error_number == EINVAL ||
         error_number == ENOENT;
}

/// Makes a file under a name that nobody has and takes the name away at once. A negative errno
/// where that fails.
int make_and_unlink(int directory) {
  for (int i = 0; i < kMaxNames; ++i) {
    uint64_t number = 0;
    if (getrandom(&number, sizeof number, 0) != static_cast<ssize_t>(sizeof number)) return -EIO;
    const std::string name = ".strata-spill-" + std::to_string(number);
    const int file = ::openat(directory, name.c_str(),
                              O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, kFileMode);
    if (file < 0 && errno == EEXIST) continue;
    if (file < 0) return -errno;
    if (::unlinkat(directory, name.c_str(), 0) == 0) return file;
    const int error_number = errno;
    ::close(file);
    return -error_number;
  }
  return -EEXIST;
}

}  // namespace

// The delegation makes a whole object first, whose destructor then runs where the rest throws.
SpillDirectory::SpillDirectory(const std::string& path) : SpillDirectory() {
  path_ = path;
  open_folder();
  refuse_memory();
}

void SpillDirectory::open_folder() {
  make_missing();
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor_ < 0) refuse("open the folder", path_, errno);
}

/// Whether the process that made the folder has ended and taken it away.
bool SpillDirectory::is_gone() const {
  struct stat status = {};
  return ::fstat(descriptor_, &status) == 0 && status.st_nlink == 0;
}

SpillDirectory::~SpillDirectory() {
  if (descriptor_ >= 0) ::close(descriptor_);
  for (; !made_.empty(); made_.pop_back()) ::rmdir(made_.back().c_str());
}

void SpillDirectory::make_missing() {
  std::filesystem::path part;
  for (const std::filesystem::path& component : std::filesystem::path(path_)) {
    part /= component;
    std::error_code unknown;  // then making it says why
    if (part.empty() || std::filesystem::is_directory(part, unknown)) continue;
    std::string name = part.string();
    made_.reserve(made_.size() + 1);  // what is made is known to be
    if (::mkdir(part.c_str(), kFolderMode) != 0) {
      if (errno == EEXIST) continue;  // another process was quicker, or it is a file: opening says
      refuse("make the folder", part.string(), errno);
    }
    made_.push_back(std::move(name));
    // The umask may have taken rights of the owner away.
    if (::chmod(part.c_str(), kFolderMode) != 0) refuse("protect the folder", part.string(), errno);
  }
}

void SpillDirectory::refuse_memory() const {
  struct statfs status = {};
  if (::fstatfs(descriptor_, &status) != 0) refuse("examine the folder", path_, errno);
  if (status.f_type != TMPFS_MAGIC && status.f_type != RAMFS_MAGIC) return;
  const std::string kind = status.f_type == TMPFS_MAGIC ? "tmpfs" : "ramfs";
  throw Error(ErrorCode::kUsage,
              "'" + path_ + "' is in memory (" + kind +
                  "): blocks spilled there would take the memory that they are meant to free",
              path_, "name a folder on a disk");
}

uint64_t SpillDirectory::free_bytes() const {
  struct statvfs status = {};
  if (::fstatvfs(descriptor_, &status) != 0) return 0;
  return uint64_t{status.f_bavail} * status.f_frsize;
}

File SpillDirectory::make_file(std::string& notice) {
  const auto open_unnamed = [&] {
    return ::openat(descriptor_, ".", O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, kFileMode);
  };
  std::string name = "the spill file in " + path_;  // before there is a descriptor to lose
  int descriptor = open_unnamed();
  for (int i = 0; descriptor < 0 && is_gone() && i < kMaxNames; ++i) {
    open_folder();
    descriptor = open_unnamed();
  }
  const bool is_unnamed = descriptor >= 0 || !lacks_unnamed_files(errno);
  if (!is_unnamed) {
    descriptor = make_and_unlink(descriptor_);
    if (descriptor < 0) refuse("make a spill file in", path_, -descriptor);
  }
  if (descriptor < 0) refuse("make a spill file in", path_, errno);
  // Set afterwards: opening with O_DIRECT may fail with the file already made.
  const int flags = ::fcntl(descriptor, F_GETFL);
  const bool is_direct = flags >= 0 && ::fcntl(descriptor, F_SETFL, flags | O_DIRECT) == 0;
  File file = File::adopt(descriptor, is_direct, std::move(name));
  if (!is_unnamed)
    add_sentence(notice, "the file system of '" + path_ +
                             "' has no unnamed files: a kill in the moment that the spill file is "
                             "made leaves an empty .strata-spill file there");
  if (!is_direct)
    add_sentence(notice, "the file system of '" + path_ +
                             "' has no direct access: spilled blocks pass through the page cache");
  if (::fchmod(descriptor, kFileMode) != 0) refuse("protect a spill file in", path_, errno);
  return file;
}

}  // namespace strata::tiers
