// tiers/spill_file.h - the NVMe tier's file: places for extents, within a budget, gone with the
// process.
// Why: the file has no name, so kill -9 leaves nothing behind. All of its room is reserved at the
// start: a disk that has less is refused before anything is read, and no step waits while the file
// system makes the file longer (on ext4 for every direct transfer in flight).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tiers/file.h"

namespace strata::tiers {

/// A file of places of one size. Not thread-safe.
class SpillFile {
 public:
  /// Makes the file in `directory` (its missing folders with mode 0700; the file has 0600), open
  /// for reading and writing, past the page cache where the file system allows it, and reserves the
  /// budget. extent_bytes is rounded up to 4,096 or the device's larger alignment.
  /// Errors, which leave nothing behind: kUsage (a file system in RAM: `directory` is what the user
  /// chose, and only another one helps), kDoesNotFit (the budget holds no extent), kIo (the disk
  /// has less room than the budget, or the system refuses the folder or the file).
  static SpillFile create(const std::string& directory, uint64_t budget_bytes,
                          uint64_t extent_bytes);

  const File& file() const { return file_; }
  /// One line for the user on what this file system lacks and what follows; empty: nothing.
  const std::string& notice() const { return notice_; }

  uint64_t extent_bytes() const { return extent_bytes_; }
  uint64_t budget_bytes() const { return budget_bytes_; }
  uint64_t reserved_bytes() const { return n_extents_ * extent_bytes_; }  // of the disk
  uint64_t used_bytes() const { return n_used_ * extent_bytes_; }         // taken places
  uint64_t peak_bytes() const { return n_peak_ * extent_bytes_; }         // of used_bytes

  /// The offset of a free place of extent_bytes: the first one at or behind the offset `near`, else
  /// the first of the file. Nothing where the budget is used up.
  std::optional<uint64_t> take(uint64_t near = 0);
  void give_back(uint64_t offset);

 private:
  SpillFile(File file, uint64_t budget_bytes, uint64_t extent_bytes, std::string notice);
  int reserve();
  uint64_t first_free(uint64_t begin) const;

  File file_;
  std::string notice_;
  uint64_t budget_bytes_;
  uint64_t extent_bytes_;
  uint64_t n_extents_;  // that the budget holds
  uint64_t n_used_ = 0;
  uint64_t n_peak_ = 0;
  std::vector<uint64_t> free_;  // a bit for each place
};

}  // namespace strata::tiers
