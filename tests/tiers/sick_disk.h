// tests/tiers/sick_disk.h - a disk that has files which it does not give.
#pragma once

#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <functional>
#include <string>
#include <utility>

#include "tiers/durable_calls.h"

namespace strata::tiers {

/// Threads: any, once lose() was called.
class SickDisk final : public DurableCalls {
 public:
  std::atomic<bool> is_sick = false;        // gives no byte of what was lost
  std::atomic<bool> takes_nothing = false;  // brings nothing to rest
  uint64_t lost_end = UINT64_MAX;           // of what was lost; behind it bytes are given

  // Once, by one thread.
  std::function<void()> before_lock, before_rename;
  uint64_t end_of_blocks = 0;  // reads that end there are of blocks
  std::atomic<uint64_t> n_blocks_read = 0, n_blocks_read_locked = 0;

  /// The file that has this path now, and not one that gets its name later.
  void lose(const std::string& path) { is_sick = ::stat(path.c_str(), &lost_) == 0; }
  bool is_lost(int descriptor) const {
    struct stat status {};
    return is_sick && ::fstat(descriptor, &status) == 0 && status.st_ino == lost_.st_ino;
  }
  int64_t read_at(int descriptor, std::span<std::byte> bytes, uint64_t offset) override {
    if (offset + bytes.size() <= end_of_blocks) {
      ++n_blocks_read;
      if (lock_ >= 0) ++n_blocks_read_locked;
    }
    return offset < lost_end && is_lost(descriptor)
               ? -EIO
               : DurableCalls::read_at(descriptor, bytes, offset);
  }
  int sync(int descriptor) override {
    return takes_nothing ? -EIO : DurableCalls::sync(descriptor);
  }

  int open_at(int directory, const std::string& name, OpenFor purpose) override {
    if (purpose == OpenFor::kLocking) do_once(before_lock);
    return DurableCalls::open_at(directory, name, purpose);
  }
  int try_lock(int descriptor) override {
    const int result = DurableCalls::try_lock(descriptor);
    if (result == 0) lock_ = descriptor;
    return result;
  }
  void close(int descriptor) override {
    if (descriptor == lock_) lock_ = -1;
    DurableCalls::close(descriptor);
  }
  int rename_at(int directory, const std::string& from, const std::string& to) override {
    do_once(before_rename);
    return DurableCalls::rename_at(directory, from, to);
  }

 private:
  static void do_once(std::function<void()>& what) {
    if (const auto now = std::exchange(what, nullptr)) now();
  }
  std::atomic<int> lock_ = -1;  // of the directory, or of a file
  struct stat lost_ {};
};

}  // namespace strata::tiers
