// tests/tools/memory_group.h - a control group with a memory limit, which the kernel enforces by
// ending what exceeds it: the one judge of a budget that counts everything.
#pragma once

#include <cstdint>
#include <string>

namespace strata::cli::testing {

/// A group below this process's own, gone with the object; its processes must have ended.
class MemoryGroup {
 public:
  /// Swap is not used. Throws tiers::NotPossibleHere (tests/tiers/child_process.h) with the reason.
  explicit MemoryGroup(uint64_t limit_bytes);
  ~MemoryGroup();
  MemoryGroup(const MemoryGroup&) = delete;
  MemoryGroup& operator=(const MemoryGroup&) = delete;

  /// The calling process is in the group from now on. Throws std::runtime_error.
  void enter() const;
  /// The most that was charged to it: the processes' memory, their page cache, the kernel's part.
  uint64_t peak_bytes() const;

 private:
  void set(const std::string& file, const std::string& value) const;
  bool is_version_2_ = false;
  std::string path_;
};

}  // namespace strata::cli::testing
