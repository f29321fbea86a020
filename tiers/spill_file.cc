#include "tiers/spill_file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
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
constexpr uint64_t kWordBits = 64;

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
  free_.resize(div_up(n_extents_, kWordBits), ~uint64_t{0});
  if (n_extents_ % kWordBits != 0) free_.back() = (uint64_t{1} << n_extents_ % kWordBits) - 1;
  return 0;
}

/// The first free place from `begin` on; n_extents_ where there is none.
uint64_t SpillFile::first_free(uint64_t begin) const {
  if (begin >= n_extents_) return n_extents_;
  uint64_t word_idx = begin / kWordBits;
  uint64_t word = free_[word_idx] & ~uint64_t{0} << begin % kWordBits;
  while (word == 0 && ++word_idx < free_.size()) word = free_[word_idx];
  if (word == 0) return n_extents_;
  return word_idx * kWordBits + static_cast<uint64_t>(std::countr_zero(word));
}

std::optional<uint64_t> SpillFile::take(uint64_t near) {
  if (n_used_ == n_extents_) return std::nullopt;
  uint64_t place = first_free(div_up(near, extent_bytes_));
  if (place == n_extents_) place = first_free(0);
  free_[place / kWordBits] &= ~(uint64_t{1} << place % kWordBits);
  n_peak_ = std::max(n_peak_, ++n_used_);
  return place * extent_bytes_;
}

void SpillFile::give_back(uint64_t offset) {
  const uint64_t place = offset / extent_bytes_;
  const uint64_t bit = uint64_t{1} << place % kWordBits;
  STRATA_CHECK(
      offset % extent_bytes_ == 0 && place < n_extents_ && (free_[place / kWordBits] & bit) == 0,
      "offset %llu is not taken", static_cast<unsigned long long>(offset));
  free_[place / kWordBits] |= bit;
  --n_used_;
}

}  // namespace strata::tiers
