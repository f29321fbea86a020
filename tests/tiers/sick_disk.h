// tests/tiers/sick_disk.h - a disk that has files which it does not give.
#pragma once

#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <string>

#include "tiers/durable_calls.h"

namespace strata::tiers {

/// Threads: any, once lose() was called.
class SickDisk final : public DurableCalls {
 public:
  std::atomic<bool> is_sick = false;        // gives no byte of what was lost
  std::atomic<bool> takes_nothing = false;  // brings nothing to rest

  /// The file that has this path now, and not one that gets its name later.
  void lose(const std::string& path) { is_sick = ::stat(path.c_str(), &lost_) == 0; }
  bool is_lost(int descriptor) const {
    struct stat status {};
    return is_sick && ::fstat(descriptor, &status) == 0 && status.st_ino == lost_.st_ino;
  }
  int64_t read_at(int descriptor, std::span<std::byte> bytes, uint64_t offset) override {
    return is_lost(descriptor) ? -EIO : DurableCalls::read_at(descriptor, bytes, offset);
  }
  int sync(int descriptor) override {
    return takes_nothing ? -EIO : DurableCalls::sync(descriptor);
  }

 private:
  struct stat lost_ {};
};

}  // namespace strata::tiers
