#include "tiers/durable_calls.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <memory>

namespace strata::tiers {
namespace {

constexpr size_t kCallBytesMax = size_t{1} << 30;  // Linux moves less than 2 GiB in one call

/// Calls again while a signal interrupts; -errno where it fails.
template <typename Call>
auto repeat(Call&& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result < 0 ? static_cast<decltype(result)>(-errno) : result;
}

/// A umask may have taken bits from the owner.
int with_private_mode(int descriptor) {
  if (descriptor < 0) return descriptor;
  const int result = repeat([&] { return ::fchmod(descriptor, S_IRUSR | S_IWUSR); });
  if (result == 0) return descriptor;
  ::close(descriptor);
  return result;
}

void fill(FileStatus& status, const struct stat& found) {
  status.bytes = static_cast<uint64_t>(std::max<off_t>(found.st_size, 0));
  status.modified_ns =
      int64_t{found.st_mtim.tv_sec} * 1'000'000'000 + int64_t{found.st_mtim.tv_nsec};
  status.n_links = static_cast<uint64_t>(found.st_nlink);
  status.inode = static_cast<uint64_t>(found.st_ino);
  status.permissions = found.st_mode & 0777;
  status.is_regular = S_ISREG(found.st_mode);
  status.is_own = found.st_uid == ::geteuid();
}

}  // namespace

int DurableCalls::make_directory(const std::string& path) {
  const int result = repeat([&] { return ::mkdir(path.c_str(), S_IRWXU); });
  if (result < 0) return result;
  return repeat([&] { return ::chmod(path.c_str(), S_IRWXU); });
}

int DurableCalls::open_directory(const std::string& path) {
  return repeat([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
}

int DurableCalls::open_at(int directory, const std::string& name, OpenFor purpose) {
  constexpr int kAlways = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
  constexpr mode_t kMode = S_IRUSR | S_IWUSR;
  if (purpose == OpenFor::kReading)
    return repeat([&] { return ::openat(directory, name.c_str(), O_RDONLY | kAlways); });
  const int flags = O_RDWR | O_CREAT | kAlways | (purpose == OpenFor::kWritingFirst ? O_EXCL : 0);
  return with_private_mode(repeat([&] { return ::openat(directory, name.c_str(), flags, kMode); }));
}

int DurableCalls::open_unnamed(int directory) {
  return with_private_mode(repeat(
      [&] { return ::openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, S_IRUSR | S_IWUSR); }));
}

int DurableCalls::open_direct(int descriptor) {
  const std::string path = "/proc/self/fd/" + std::to_string(descriptor);
  return repeat([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT); });
}

void DurableCalls::close(int descriptor) { ::close(descriptor); }

int64_t DurableCalls::read_at(int descriptor, std::span<std::byte> bytes, uint64_t offset) {
  return repeat([&]() -> int64_t {
    return ::pread(descriptor, bytes.data(), std::min(bytes.size(), kCallBytesMax),
                   static_cast<off_t>(offset));
  });
}

int DurableCalls::will_read(int descriptor, uint64_t offset, uint64_t bytes) {
  return -::posix_fadvise(descriptor, static_cast<off_t>(offset), static_cast<off_t>(bytes),
                          POSIX_FADV_WILLNEED);
}

int64_t DurableCalls::write_at(int descriptor, std::span<const std::byte> bytes, uint64_t offset) {
  return repeat([&]() -> int64_t {
    return ::pwrite(descriptor, bytes.data(), std::min(bytes.size(), kCallBytesMax),
                    static_cast<off_t>(offset));
  });
}

int DurableCalls::sync(int descriptor) {
  return ::fsync(descriptor) == 0 ? 0 : -errno;  // never repeated, not even after a signal
}

int DurableCalls::touch(int descriptor) {
  timespec times[2];
  ::clock_gettime(CLOCK_REALTIME, &times[0]);
  times[1] = times[0];
  return repeat([&] { return ::futimens(descriptor, times); });
}

int DurableCalls::try_lock(int descriptor) {
  return repeat([&] { return ::flock(descriptor, LOCK_EX | LOCK_NB); });
}

int DurableCalls::status(int descriptor, FileStatus& status) {
  struct stat found = {};
  const int result = repeat([&] { return ::fstat(descriptor, &found); });
  if (result == 0) fill(status, found);
  return result;
}

int DurableCalls::status_at(int directory, const std::string& name, FileStatus& status) {
  struct stat found = {};
  const int result =
      repeat([&] { return ::fstatat(directory, name.c_str(), &found, AT_SYMLINK_NOFOLLOW); });
  if (result == 0) fill(status, found);
  return result;
}

int DurableCalls::free_bytes(int descriptor, uint64_t& bytes) {
  struct statvfs found = {};
  const int result = repeat([&] { return ::fstatvfs(descriptor, &found); });
  if (result == 0) bytes = uint64_t{found.f_bavail} * uint64_t{found.f_frsize};
  return result;
}

int DurableCalls::list(int directory, std::vector<std::string>& names) {
  names.clear();
  // A description of its own: the position within a directory is shared by duplicates.
  const int own =
      repeat([&] { return ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (own < 0) return own;
  const auto close_stream = [](DIR* of) { ::closedir(of); };
  const std::unique_ptr<DIR, decltype(close_stream)> stream(::fdopendir(own), close_stream);
  if (stream == nullptr) {
    const int error = errno;
    ::close(own);
    return -error;
  }
  errno = 0;
  while (const dirent* entry = ::readdir(stream.get())) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
    errno = 0;
  }
  const int error = errno;
  std::sort(names.begin(), names.end());
  return -error;
}

int DurableCalls::link_at(int descriptor, int directory, const std::string& name) {
  // By descriptor where the kernel lets this user, else through its entry in /proc.
  const int result = ::linkat(descriptor, "", directory, name.c_str(), AT_EMPTY_PATH);
  if (result == 0) return 0;
  if (errno == EEXIST) return -EEXIST;
  const std::string entry = "/proc/self/fd/" + std::to_string(descriptor);
  return ::linkat(AT_FDCWD, entry.c_str(), directory, name.c_str(), AT_SYMLINK_FOLLOW) == 0
             ? 0
             : -errno;
}

int DurableCalls::rename_at(int directory, const std::string& from, const std::string& to) {
  return ::renameat(directory, from.c_str(), directory, to.c_str()) == 0 ? 0 : -errno;
}

int DurableCalls::remove_at(int directory, const std::string& name) {
  return ::unlinkat(directory, name.c_str(), 0) == 0 ? 0 : -errno;
}

DurableCalls& system_calls() {
  static DurableCalls calls;
  return calls;
}

}  // namespace strata::tiers
