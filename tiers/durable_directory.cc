#include "tiers/durable_directory.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"

namespace strata::tiers {
namespace {

constexpr uint64_t kDirectAlignment = 4096;  // what every usual device takes
constexpr std::string_view kHiddenStart = ".part-";
constexpr const char* kLockName = ".lock";

/// `result` is a negative errno.
[[noreturn]] void fail(const std::string& what, int64_t result, const std::string& where) {
  const int error = static_cast<int>(-result);
  std::string remedy =
      "Check the directory's permissions and its disk; nothing saved before is lost.";
  if (error == ENOSPC || error == EDQUOT)
    remedy = "Free space on this disk, or remove saved contexts.";
  if (error == EIO) remedy = "Look for the disk's errors in the system log before saving again.";
  throw Error(ErrorCode::kIo, "cannot " + what + ": " + std::generic_category().message(error),
              where, remedy);
}

/// The folder that `path` lies in.
std::string parent_of(const std::string& path) {
  std::filesystem::path full = std::filesystem::path(path).lexically_normal();
  if (!full.has_filename()) full = full.parent_path();  // a slash at the end
  const std::string parent = full.parent_path().string();
  return parent.empty() ? "." : parent;
}

/// Makes the last folder of `path` for this user alone, and its parents as the umask says.
void make_private_directory(const std::string& path, DurableCalls& calls) {
  std::error_code error;
  std::filesystem::create_directories(parent_of(path), error);
  if (error) fail("make the directory above", -error.value(), path);
  const int made = calls.make_directory(path);
  if (made == -EEXIST) return;
  if (made < 0) fail("make the directory", made, path);
  const OwnedDescriptor parent(calls, calls.open_directory(parent_of(path)));
  const int synced = parent.get() < 0 ? parent.get() : calls.sync(parent.get());
  if (synced < 0) fail("bring the directory's name to the disk", synced, path);
}

std::string hidden_name() {
  static std::atomic<uint64_t> count = 0;
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  return std::string(kHiddenStart) + std::to_string(now) + "-" + std::to_string(++count);
}

bool has_no_unnamed_files(int result) {
  return result == -EOPNOTSUPP || result == -EISDIR || result == -ENOENT || result == -EINVAL;
}

}  // namespace

OwnedDescriptor::~OwnedDescriptor() {
  if (descriptor_ >= 0) calls_->close(descriptor_);
}

OwnedDescriptor::OwnedDescriptor(OwnedDescriptor&& other) noexcept
    : calls_(other.calls_), descriptor_(std::exchange(other.descriptor_, -1)) {}

OwnedDescriptor& OwnedDescriptor::operator=(OwnedDescriptor&& other) noexcept {
  std::swap(calls_, other.calls_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

int64_t DirectoryFile::read_at(int descriptor, std::span<std::byte> bytes, uint64_t offset) const {
  const int64_t n = calls_->read_at(descriptor, bytes, offset);
  n_answers_->fetch_add(1, std::memory_order_relaxed);
  return n;
}

void DirectoryFile::read(std::span<std::byte> bytes, uint64_t offset) const {
  while (!bytes.empty()) {
    const int64_t n = read_at(descriptor(), bytes, offset);
    if (n < 0) fail("read a saved file", n, path_);
    if (n == 0)
      throw Error(ErrorCode::kBadFile,
                  "a saved file ends at byte " + std::to_string(offset) + ", where " +
                      std::to_string(bytes.size()) + " more were wanted",
                  path_, "Remove the file; what it held will be computed again.");
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
}

void DirectoryFile::ask_for(uint64_t bytes, uint64_t offset) const {
  (void)calls_->will_read(descriptor(), offset, bytes);
}

uint64_t DirectoryFile::direct_bytes(uint64_t bytes) {
  return round_up(bytes, kDirectAlignment) + kDirectAlignment;
}

std::span<std::byte> DirectoryFile::read_direct(std::span<std::byte> memory, uint64_t bytes,
                                                uint64_t offset) const {
  STRATA_CHECK(memory.size() >= direct_bytes(bytes), "%zu bytes for %lu", memory.size(),
               static_cast<unsigned long>(bytes));
  const uint64_t begin = offset / kDirectAlignment * kDirectAlignment;
  const auto pages = memory.first(round_up(offset + bytes, kDirectAlignment) - begin);
  const OwnedDescriptor direct(*calls_, calls_->open_direct(descriptor()));
  // The last pages of a file may end behind it. What comes in parts comes through the page cache.
  const bool is_there = direct.get() >= 0 && read_at(direct.get(), pages, begin) >=
                                                 static_cast<int64_t>(offset - begin + bytes);
  const auto found = memory.subspan(offset - begin, bytes);
  if (!is_there) read(found, offset);
  return found;
}

void DirectoryFile::touch() const { calls_->touch(descriptor()); }

std::shared_ptr<DurableDirectory> DurableDirectory::open(const std::string& path,
                                                         DurableCalls& calls) {
  OwnedDescriptor descriptor(calls, calls.open_directory(path));
  if (descriptor.get() == -ENOENT) {
    make_private_directory(path, calls);
    descriptor = OwnedDescriptor(calls, calls.open_directory(path));
  }
  if (descriptor.get() < 0) fail("open the directory of saved contexts", descriptor.get(), path);
  FileStatus status;
  if (const int result = calls.status(descriptor.get(), status); result < 0)
    fail("examine the directory of saved contexts", result, path);
  if (!status.is_own)
    throw Error(ErrorCode::kUsage,
                "saved contexts hold conversations, and this directory is another user's", path,
                "Name a directory of your own.");
  if ((status.permissions & 077) != 0)
    throw Error(ErrorCode::kUsage,
                "saved contexts hold conversations, and others can reach this directory", path,
                "Name a directory of your own, or run chmod 700 on it.");
  return std::shared_ptr<DurableDirectory>(
      new DurableDirectory(calls, std::move(descriptor), path));
}

std::vector<std::string> DurableDirectory::names() const {
  std::vector<std::string> names;
  if (const int result = answered(calls_.list(descriptor(), names)); result < 0)
    fail("list the directory of saved contexts", result, path_);
  return names;
}

uint64_t DurableDirectory::free_bytes() const {
  uint64_t bytes = 0;
  if (const int result = answered(calls_.free_bytes(descriptor(), bytes)); result < 0)
    fail("find out the free space", result, path_);
  return bytes;
}

std::optional<DirectoryFile> DurableDirectory::open_file(const std::string& name) const {
  OwnedDescriptor descriptor(calls_,
                             answered(calls_.open_at(this->descriptor(), name, OpenFor::kReading)));
  if (descriptor.get() == -ENOENT) return std::nullopt;
  if (descriptor.get() < 0) fail("open a saved file", descriptor.get(), path_of(name));
  DirectoryFile file(calls_, std::move(descriptor), path_of(name), n_answers_);
  if (const int result = calls_.status(file.descriptor(), file.status_); result < 0)
    fail("examine a saved file", result, path_of(name));
  if (!file.status_.is_regular)
    throw Error(ErrorCode::kBadFile, "this is no regular file", path_of(name), "Remove it.");
  return file;
}

std::optional<FileStatus> DurableDirectory::status_of(const std::string& name) const {
  FileStatus status;
  const int result = answered(calls_.status_at(descriptor(), name, status));
  if (result == -ENOENT) return std::nullopt;
  if (result < 0) fail("examine a saved file", result, path_of(name));
  return status;
}

bool DurableDirectory::remove(const std::string& name) {
  const int result = answered(calls_.remove_at(descriptor(), name));
  if (result == -ENOENT) return false;
  if (result < 0) fail("remove a saved file", result, path_of(name));
  return true;
}

void DurableDirectory::sync() {
  if (const int result = answered(calls_.sync(descriptor())); result < 0)
    fail("bring the directory to the disk", result, path_);
}

uint32_t DurableDirectory::remove_leftovers() {
  uint32_t n_removed = 0;
  for (const std::string& name : names()) {
    if (!name.starts_with(kHiddenStart)) continue;
    const OwnedDescriptor file(calls_, calls_.open_at(descriptor(), name, OpenFor::kReading));
    // Whoever writes it holds its lock as long as it lives.
    if (file.get() < 0 || calls_.try_lock(file.get()) < 0) continue;
    if (remove(name)) ++n_removed;
  }
  return n_removed;
}

DirectoryLock DurableDirectory::lock(std::chrono::milliseconds wait_max) {
  OwnedDescriptor file(calls_, calls_.open_at(descriptor(), kLockName, OpenFor::kLocking));
  if (file.get() < 0) fail("open the lock of saved contexts", file.get(), path_of(kLockName));
  const auto deadline = std::chrono::steady_clock::now() + wait_max;
  std::chrono::milliseconds pause(1);
  while (true) {
    const int result = answered(calls_.try_lock(file.get()));
    if (result == 0) return DirectoryLock(std::move(file));
    if (result != -EWOULDBLOCK) fail("lock the saved contexts", result, path_of(kLockName));
    if (std::chrono::steady_clock::now() >= deadline)
      throw Error(ErrorCode::kIo,
                  "another process has been changing the saved contexts for " +
                      std::to_string(wait_max.count()) + " ms",
                  path_of(kLockName), "Try again when it has finished, or end it.");
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::milliseconds(32));
  }
}

UnpublishedFile UnpublishedFile::create(std::shared_ptr<DurableDirectory> directory, Place place) {
  if (place == Place::kReplaces) return create_hidden(std::move(directory), place);
  DurableCalls& calls = directory->calls();
  OwnedDescriptor descriptor(calls, calls.open_unnamed(directory->descriptor()));
  if (has_no_unnamed_files(descriptor.get())) return create_hidden(std::move(directory), place);
  if (descriptor.get() < 0) fail("make a file", descriptor.get(), directory->path());
  return UnpublishedFile(std::move(directory), std::move(descriptor), place, "");
}

UnpublishedFile UnpublishedFile::create_hidden(std::shared_ptr<DurableDirectory> directory,
                                               Place place) {
  constexpr int kTries = 100;
  DurableCalls& calls = directory->calls();
  int result = 0;
  for (int i = 0; i < kTries; ++i) {
    const std::string name = hidden_name();
    OwnedDescriptor descriptor(
        calls, calls.open_at(directory->descriptor(), name, OpenFor::kWritingFirst));
    result = descriptor.get();
    if (result == -EEXIST) continue;
    if (result < 0) break;
    UnpublishedFile file(directory, std::move(descriptor), place, name);
    // Another process may take the file for a leftover before it is locked; then it is another try.
    FileStatus status;
    result = calls.try_lock(file.descriptor_.get());
    if (result == 0) result = calls.status(file.descriptor_.get(), status);
    if (result == -EWOULDBLOCK || (result == 0 && status.n_links == 0)) continue;
    if (result < 0) break;
    return file;
  }
  fail("make a file", result < 0 ? result : -EEXIST, directory->path());
}

UnpublishedFile::~UnpublishedFile() {
  if (descriptor_.get() >= 0 && !hidden_name_.empty())
    directory_->calls().remove_at(directory_->descriptor(), hidden_name_);
}

void UnpublishedFile::abandon(const std::string& what, int64_t result) {
  state_ = State::kDone;
  fail(what, result, directory_->path());
}

void UnpublishedFile::append(std::span<const std::byte> bytes) {
  STRATA_CHECK(state_ == State::kOpen, "state=%d", static_cast<int>(state_));
  while (!bytes.empty()) {
    const int64_t n = directory_->calls().write_at(descriptor_.get(), bytes, bytes_);
    if (n <= 0) abandon("write a saved context", n < 0 ? n : -EIO);
    bytes_ += static_cast<uint64_t>(n);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

void UnpublishedFile::sync() {
  STRATA_CHECK(state_ == State::kOpen, "state=%d", static_cast<int>(state_));
  directory_->calls().touch(descriptor_.get());  // finer than the kernel's own time of writing
  if (const int result = directory_->calls().sync(descriptor_.get()); result < 0)
    abandon("bring a saved context to the disk", result);
  state_ = State::kSynced;
}

void UnpublishedFile::replace(const std::string& name) {
  STRATA_CHECK(state_ == State::kSynced, "state=%d", static_cast<int>(state_));
  if (hidden_name_.empty()) {  // a name is moved to another, an unnamed file is not
    const std::string hidden = hidden_name();
    // As every hidden file has it, against who removes leftovers.
    if (const int locked = directory_->calls().try_lock(descriptor_.get()); locked < 0)
      abandon("name a saved context", locked);
    const int named =
        directory_->calls().link_at(descriptor_.get(), directory_->descriptor(), hidden);
    if (named < 0) abandon("name a saved context", named);
    hidden_name_ = hidden;
  }
  place_ = Place::kReplaces;
  if (!publish(name)) abandon("name a saved context", -EEXIST);
}

bool UnpublishedFile::publish(const std::string& name) {
  STRATA_CHECK(state_ == State::kSynced, "state=%d", static_cast<int>(state_));
  DurableCalls& calls = directory_->calls();
  const int directory = directory_->descriptor();
  const bool is_hidden = !hidden_name_.empty();
  if (is_hidden && place_ == Place::kNeverReplaces && directory_->status_of(name)) return false;
  const int named = is_hidden ? calls.rename_at(directory, hidden_name_, name)
                              : calls.link_at(descriptor_.get(), directory, name);
  state_ = State::kDone;
  if (named == -EEXIST) return false;
  if (named < 0) abandon("name a saved context", named);
  hidden_name_.clear();
  const int synced = calls.sync(directory);
  if (synced == 0) return true;
  // A name that may be lost must not pass for saved: what replaced nothing goes again.
  if (place_ == Place::kNeverReplaces) calls.remove_at(directory, name);
  abandon("bring a saved context's name to the disk", synced);
}

}  // namespace strata::tiers
