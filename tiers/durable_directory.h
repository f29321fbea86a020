// tiers/durable_directory.h - a private directory whose files appear whole or not at all.
// Why: a file gets its name after its bytes are on the disk, so that neither a killed process nor a
// power loss leaves half a file, and nothing without a name outlives its process.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tiers/durable_calls.h"

namespace strata::tiers {

class DurableDirectory;

/// How often a disk has answered. Threads: any.
using AnswerCount = std::atomic<uint64_t>;

/// Owns a descriptor; closes it.
class OwnedDescriptor {
 public:
  OwnedDescriptor(DurableCalls& calls, int descriptor) : calls_(&calls), descriptor_(descriptor) {}
  ~OwnedDescriptor();
  OwnedDescriptor(OwnedDescriptor&& other) noexcept;
  OwnedDescriptor& operator=(OwnedDescriptor&& other) noexcept;
  int get() const { return descriptor_; }

 private:
  DurableCalls* calls_;
  int descriptor_;
};

/// An existing file, open for reading: it stays readable after its name is gone. Thread-safe.
class DirectoryFile {
 public:
  uint64_t bytes() const { return status_.bytes; }
  const FileStatus& status() const { return status_; }  // when it was opened
  const std::string& path() const { return path_; }
  int descriptor() const { return descriptor_.get(); }
  /// Errors: kIo; kBadFile where the file ends before.
  void read(std::span<std::byte> bytes, uint64_t offset) const;
  /// Has the disk bring what a later read() is to find at hand; waits for none of it.
  void ask_for(uint64_t bytes, uint64_t offset) const;
  /// What read_direct() may take of memory for `bytes` at any offset.
  static uint64_t direct_bytes(uint64_t bytes);
  /// The same past the page cache where that can be, into `memory`, which is aligned to pages and
  /// has direct_bytes(bytes). Returns where in it the bytes are. For bytes that are wanted once.
  std::span<std::byte> read_direct(std::span<std::byte> memory, uint64_t bytes,
                                   uint64_t offset) const;
  /// Notes that the file is in use now. A failure only makes it look older, and is not reported.
  void touch() const;

 private:
  friend class DurableDirectory;
  DirectoryFile(DurableCalls& calls, OwnedDescriptor descriptor, std::string path,
                std::shared_ptr<AnswerCount> n_answers)
      : calls_(&calls),
        descriptor_(std::move(descriptor)),
        path_(std::move(path)),
        n_answers_(std::move(n_answers)) {}
  int64_t read_at(int descriptor, std::span<std::byte> bytes, uint64_t offset) const;
  DurableCalls* calls_;
  OwnedDescriptor descriptor_;
  std::string path_;
  std::shared_ptr<AnswerCount> n_answers_;  // of the directory
  FileStatus status_;
};

/// Held while it lives, against every other process and every other holder in this one.
class DirectoryLock {
 private:
  friend class DurableDirectory;
  explicit DirectoryLock(OwnedDescriptor descriptor) : descriptor_(std::move(descriptor)) {}
  OwnedDescriptor descriptor_;
};

class DurableDirectory {
 public:
  /// Opens `path`, which is made (mode 0700) where it does not exist. Errors: kIo; kUsage where
  /// others than this user could read what is saved in it. `calls` must outlive the directory.
  static std::shared_ptr<DurableDirectory> open(const std::string& path, DurableCalls& calls);

  const std::string& path() const { return path_; }
  std::string path_of(const std::string& name) const { return path_ + "/" + name; }
  DurableCalls& calls() const { return calls_; }
  int descriptor() const { return descriptor_.get(); }
  /// To the calls of this object and of its files, so far: whoever waits for what another thread
  /// does with them sees whether the disk answers. Threads: any.
  uint64_t n_answers() const { return n_answers_->load(std::memory_order_relaxed); }

  std::vector<std::string> names() const;  // sorted
  uint64_t free_bytes() const;
  /// Nothing where there is no such file. Errors: kIo; kBadFile where it is no regular file.
  std::optional<DirectoryFile> open_file(const std::string& name) const;
  std::optional<FileStatus> status_of(const std::string& name) const;
  /// False where there was no such file. The removal is lasting after sync().
  bool remove(const std::string& name);
  void sync();

  /// Removes what processes that have ended left unpublished; returns the number of files.
  uint32_t remove_leftovers();

  /// Waits for the lock. Errors: kIo, with a remedy, where another one holds it for longer.
  DirectoryLock lock(std::chrono::milliseconds wait_max);

 private:
  DurableDirectory(DurableCalls& calls, OwnedDescriptor descriptor, std::string path)
      : calls_(calls), descriptor_(std::move(descriptor)), path_(std::move(path)) {}
  /// Of a call of the disk what it has returned, which counts as an answer.
  int answered(int result) const {
    n_answers_->fetch_add(1, std::memory_order_relaxed);
    return result;
  }
  DurableCalls& calls_;
  OwnedDescriptor descriptor_;
  std::string path_;
  std::shared_ptr<AnswerCount> n_answers_ = std::make_shared<AnswerCount>(0);
};

/// A file that has no name yet, or a hidden one that the next open of the directory removes once
/// this process has ended. Destroyed unpublished, it is gone. After an error it is abandoned: it
/// is never synced again, since a second fsync may succeed although the bytes are lost.
class UnpublishedFile {
 public:
  enum class Place : uint8_t {
    kNeverReplaces,  // but by replace(); unnamed where the file system can (O_TMPFILE)
    kReplaces,       // may take the place of a file of the same name
  };

  static UnpublishedFile create(std::shared_ptr<DurableDirectory> directory, Place place);
  ~UnpublishedFile();
  UnpublishedFile(UnpublishedFile&&) noexcept = default;
  UnpublishedFile& operator=(UnpublishedFile&&) = delete;

  /// Adds at the end. Errors: kIo (no space, a device error).
  void append(std::span<const std::byte> bytes);
  uint64_t bytes() const { return bytes_; }
  /// Brings the bytes to the disk. Once, after the last append.
  void sync();
  /// Gives the file its name and brings the name to the disk; after sync(). False where a
  /// kNeverReplaces file finds the name taken; several processes hold the directory's lock.
  /// Errors: kIo; then the name is as before, or, of a kReplaces file, may be the whole file's.
  bool publish(const std::string& name);
  /// The same where a file of that name is there, which goes when this one is in its place.
  /// Errors: kIo; then the name is the earlier file's or this one's.
  void replace(const std::string& name);

 private:
  enum class State : uint8_t { kOpen, kSynced, kDone };

  UnpublishedFile(std::shared_ptr<DurableDirectory> directory, OwnedDescriptor descriptor,
                  Place place, std::string hidden_name)
      : directory_(std::move(directory)),
        descriptor_(std::move(descriptor)),
        place_(place),
        hidden_name_(std::move(hidden_name)) {}
  static UnpublishedFile create_hidden(std::shared_ptr<DurableDirectory> directory, Place place);
  [[noreturn]] void abandon(const std::string& what, int64_t result);

  std::shared_ptr<DurableDirectory> directory_;
  OwnedDescriptor descriptor_;
  Place place_;
  std::string hidden_name_;  // "" where the file has no name
  uint64_t bytes_ = 0;
  State state_ = State::kOpen;
};

}  // namespace strata::tiers
