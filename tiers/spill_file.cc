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

/// Reserves the first `bytes` of the file. 0 or a positive errno.
int reserve_bytes(int descriptor, uint64_t bytes) {
  rlimit limit = {};
  // Growing past this limit would end the process by a signal.
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && bytes > limit.rlim_cur) return EFBIG;
  int error_number = 0;
  for (uint32_t i = 0; i <= kMaxRepeats; ++i) {
    error_number = ::fallocate(descriptor, 0, 0, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
    if (error_number != EINTR) break;
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
      n_extents_(std::min(budget_bytes, uint64_t{INT64_MAX}) / extent_bytes) {}

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
  if (const int error_number = spill.reserve(); error_number != 0)
    throw Error(ErrorCode::kIo,
                "cannot reserve " + mib(spill.reserved_bytes()) + " for K and V in '" + directory +
                    "', which has " + mib(n_free) + " free: " + std::strerror(error_number),
                directory,
                "free space there, name a folder on another disk, lower the budget on disk, or ask "
                "for a smaller context");
  folder.keep();
  return spill;
}

/// Reserves all of the file, where the file system can. 0 or a positive errno.
int SpillFile::reserve() {
  const int error_number = reserve_bytes(file_.descriptor(), reserved_bytes());
  if (error_number == EOPNOTSUPP) {
    if (!notice_.empty()) notice_ += "; ";
    notice_ += "the file system cannot reserve room: a full disk shows when a block is written";
  } else if (error_number != 0) {
    return error_number;
  }
  is_taken_.resize(n_extents_, false);
  returned_.reserve(n_extents_);
  return 0;
}

std::optional<uint64_t> SpillFile::take() {
  uint64_t place = 0;
  if (!returned_.empty()) {
    place = returned_.back();
    returned_.pop_back();
  } else {
    if (n_begun_ == n_extents_) return std::nullopt;
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
