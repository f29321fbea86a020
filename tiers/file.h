// tiers/file.h - an open file that transfers come from and go to, with what its device demands.
#pragma once

#include <cstdint>
#include <string>

namespace strata::tiers {

/// Owns a file descriptor. Direct files bypass the page cache.
class File {
 public:
  /// Opens an existing file for reading, past the page cache where `direct` is asked for and the
  /// file system allows it. Errors: kIo with the path and the cause.
  static File open_for_reading(const std::string& path, bool direct);
  /// Takes over a descriptor that the caller has opened without O_NONBLOCK (a ring would not wait
  /// for the disk), and finds out its alignment.
  static File adopt(int descriptor, bool is_direct, std::string name);

  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;

  int descriptor() const { return descriptor_; }
  const std::string& name() const { return name_; }  // for messages
  bool is_direct() const { return is_direct_; }
  /// Offsets, lengths and addresses of transfers are multiples of this: what the device says
  /// (statx), else 4,096; 1 where the file is not direct.
  uint32_t alignment() const { return alignment_; }
  uint64_t size_bytes() const;  // now

 private:
  File() = default;
  int descriptor_ = -1;
  bool is_direct_ = false;
  uint32_t alignment_ = 1;
  std::string name_;
};

}  // namespace strata::tiers
