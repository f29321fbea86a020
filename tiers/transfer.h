// tiers/transfer.h - how one transfer goes on after each answer of the system.
// Why: both back ends that reach a real disk resume short transfers and repeat interrupted ones by
// the same rules.
#pragma once

#include <chrono>
#include <cstdint>

#include "tiers/io.h"

namespace strata::tiers {

/// Answers without progress (EINTR, EAGAIN) that are repeated in a row before the transfer fails.
inline constexpr uint32_t kMaxRepeats = 100;

/// A longer wait is taken as this one: the sum of any clock and the longest duration would wrap.
inline constexpr std::chrono::microseconds kMaxIoWait = std::chrono::hours(24);

/// One request and what has been moved of it.
struct Transfer {
  IoRequest request;
  uint32_t alignment = 1;  // of its file
  uint32_t moved = 0;
  uint32_t n_repeats = 0;  // in a row

  uint64_t offset() const { return request.offset + moved; }
  std::byte* memory() const { return request.memory + moved; }
  uint32_t bytes() const { return request.bytes - moved; }
};

/// Checks what the contract of IoRequest demands of a request for a file of this alignment.
void check_request(const IoRequest& request, uint32_t alignment);

/// Takes the answer to a call for the rest of the transfer (bytes moved, or a negative errno).
/// True: `completion` is the outcome. False: call again for the rest. A direct file goes on only
/// from an aligned place: the odd bytes before its end are the last ones that it can give.
bool finish(Transfer& transfer, int64_t answer, IoCompletion& completion);

}  // namespace strata::tiers
