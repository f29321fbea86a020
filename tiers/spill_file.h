// tiers/spill_file.h - the NVMe tier's file: places for extents, within a budget, gone with the
// process.
// Why: the file has no name, so kill -9 leaves nothing behind; room is reserved ahead, so that a
// full disk shows when a place is asked for and not when its bytes are written.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tiers/file.h"
#include "tiers/io.h"

namespace strata::tiers {

/// A file of places of one size. Not thread-safe.
class SpillFile {
 public:
  /// Room is reserved in steps of this or an eighth of the budget, whichever is less.
  static constexpr uint64_t kMaxStepBytes = uint64_t{256} << 20;

  /// Makes the file in `directory` (its missing folders with mode 0700; the file has 0600), open
  /// for reading and writing, past the page cache where the file system allows it, and reserves the
  /// first step. extent_bytes is rounded up to 4,096 or the device's larger alignment.
  /// Errors, which leave nothing behind: kUsage (a file system in RAM: `directory` is what the user
  /// chose, and only another one helps), kDoesNotFit (the budget holds no extent), kIo (the disk is
  /// full, or the system refuses the folder or the file).
  static SpillFile create(const std::string& directory, uint64_t budget_bytes,
                          uint64_t extent_bytes);

  const File& file() const { return file_; }
  /// One line for the user on what this file system lacks and what follows; empty: nothing.
  const std::string& notice() const { return notice_; }

  uint64_t extent_bytes() const { return extent_bytes_; }
  uint64_t budget_bytes() const { return budget_bytes_; }
  uint64_t reserved_bytes() const { return n_reserved_ * extent_bytes_; }  // of the disk, now
  uint64_t used_bytes() const { return n_used_ * extent_bytes_; }          // taken places
  uint64_t peak_bytes() const { return n_peak_ * extent_bytes_; }          // of used_bytes

  /// The offset of a free place of extent_bytes. Nothing where the budget is used up, or where the
  /// disk refuses the next step (reserve_status says why, and it is not asked again). Blocks while
  /// the file system reserves a step.
  std::optional<uint64_t> take();
  void give_back(uint64_t offset);

  /// kOk, or why the disk gave less room than the budget: what is reserved stays usable.
  IoStatus reserve_status() const { return reserve_status_; }

 private:
  SpillFile(File file, uint64_t budget_bytes, uint64_t extent_bytes, std::string notice);
  int reserve_step();

  File file_;
  std::string notice_;
  uint64_t budget_bytes_;
  uint64_t extent_bytes_;
  uint64_t n_extents_;  // that the budget holds
  uint64_t n_step_;     // extents
  uint64_t n_reserved_ = 0;
  uint64_t n_begun_ = 0;  // places below this have been taken at some time
  uint64_t n_used_ = 0;
  uint64_t n_peak_ = 0;
  bool can_reserve_ = true;  // the file system can; else writes make the file grow
  IoStatus reserve_status_ = IoStatus::kOk;
  std::vector<bool> is_taken_;      // by place, of those reserved
  std::vector<uint64_t> returned_;  // places, a stack
};

}  // namespace strata::tiers
