#include "tiers/spill_file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "tiers/spill_directory.h"
#include "tiers/transfer.h"

namespace strata::tiers {
namespace {

// NVMe devices are formatted with 512 or 4,096 bytes.
constexpr uint64_t kMinExtentAlignment = 4096;

/// Reserves [begin, end) of the file, which ends at `begin`. On failure the file is as it was, and
/// a positive errno is returned.
int reserve(int descriptor, uint64_t begin, uint64_t end) {
  rlimit limit = {};
  // Growing past this limit would end the process by a signal.
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && end > limit.rlim_cur) return EFBIG;
  int error_number = 0;
  for (uint32_t i = 0; i <= kMaxRepeats; ++i) {
    const auto offset = static_cast<off_t>(begin);
    error_number =
        ::fallocate(descriptor, 0, offset, static_cast<off_t>(end - begin)) == 0 ? 0 : errno;
    if (error_number != EINTR) break;
  }
  if (error_number == 0) return 0;
  // A full disk has given what it had: it goes back to others. Where that fails too, the file is
  // longer than what is used of it, and ends with the process.
  for (uint32_t i = 0; i <= kMaxRepeats; ++i) {
    if (::ftruncate(descriptor, static_cast<off_t>(begin)) == 0 || errno != EINTR) break;
  }
  return error_number;
}

std::string mib(uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

}  // namespace

SpillFile::SpillFile(File file, uint64_t budget_bytes, uint64_t extent_bytes, std::string notice)
    : file_(std::move(file)),
      notice_(std::move(notice)),
      budget_bytes_(budget_bytes),
      extent_bytes_(extent_bytes),
      n_extents_(std::min(budget_bytes, uint64_t{INT64_MAX}) / extent_bytes),
      n_step_(std::clamp(std::min(budget_bytes / 8, kMaxStepBytes) / extent_bytes, uint64_t{1},
                         std::max(n_extents_, uint64_t{1}))) {}

SpillFile SpillFile::create(const std::string& directory, uint64_t budget_bytes,
                            uint64_t extent_bytes) {
  STRATA_CHECK(extent_bytes > 0, "extent_bytes=%llu",
               static_cast<unsigned long long>(extent_bytes));
  SpillDirectory folder(directory);
  std::string notice;
  File file = folder.make_file(notice);
  const auto padded =
      checked_round_up(extent_bytes, std::max<uint64_t>(kMinExtentAlignment, file.alignment()));
  if (!padded || *padded > budget_bytes)
    throw Error(ErrorCode::kDoesNotFit,
                "a budget of " + std::to_string(budget_bytes) +
                    " bytes on disk does not hold one extent of " +
                    std::to_string(padded.value_or(extent_bytes)) + " bytes",
                directory, "raise the budget on disk");
  const uint64_t n_free = folder.free_bytes();
  SpillFile spill(std::move(file), budget_bytes, *padded, std::move(notice));
  if (const int error_number = spill.reserve_step(); error_number != 0)
    throw Error(ErrorCode::kIo,
                "cannot reserve " + mib(spill.n_step_ * *padded) + " of the budget of " +
                    mib(budget_bytes) + " in '" + directory + "', which has " + mib(n_free) +
                    " free: " + std::strerror(error_number),
                directory, "free space there, name a folder on another disk, or lower the budget");
  if (n_free > 0 && n_free < budget_bytes) {
    if (!spill.notice_.empty()) spill.notice_ += "; ";
    spill.notice_ += "'" + directory + "' has " + mib(n_free) + " free, less than the budget of " +
                     mib(budget_bytes) + ": spilling ends when the disk is full";
  }
  folder.keep();
  return spill;
}

/// Reserves the next step, or what the budget leaves of it. 0 or a positive errno.
int SpillFile::reserve_step() {
  const uint64_t n_wanted = std::min(n_reserved_ + n_step_, n_extents_);
  if (can_reserve_) {
    const int error_number =
        reserve(file_.descriptor(), reserved_bytes(), n_wanted * extent_bytes_);
    if (error_number == EOPNOTSUPP && n_reserved_ == 0) {
      can_reserve_ = false;
      if (!notice_.empty()) notice_ += "; ";
      notice_ += "the file system cannot reserve room: a full disk shows when a block is written";
    } else if (error_number != 0) {
      reserve_status_ = io_status_of(error_number);
      return error_number;
    }
  }
  is_taken_.resize(n_wanted, false);
  returned_.reserve(n_wanted);
  n_reserved_ = n_wanted;
  return 0;
}

std::optional<uint64_t> SpillFile::take() {
  uint64_t place = 0;
  if (!returned_.empty()) {
    place = returned_.back();
    returned_.pop_back();
  } else {
    if (n_begun_ == n_reserved_) {
      const bool is_at_end = n_reserved_ == n_extents_ || reserve_status_ != IoStatus::kOk;
      if (is_at_end || reserve_step() != 0) return std::nullopt;
    }
    place = n_begun_++;
  }
  is_taken_[place] = true;
  n_peak_ = std::max(n_peak_, ++n_used_);
  return place * extent_bytes_;
}

void SpillFile::give_back(uint64_t offset) {
  const uint64_t place = offset / extent_bytes_;
  STRATA_CHECK(offset % extent_bytes_ == 0 && place < is_taken_.size() && is_taken_[place],
               "offset %llu is not taken", static_cast<unsigned long long>(offset));
  is_taken_[place] = false;
  returned_.push_back(place);
  --n_used_;
}

}  // namespace strata::tiers
