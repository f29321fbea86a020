#include "tiers/transfer.h"

#include <cerrno>

#include "base/check.h"

namespace strata::tiers {

void check_request(const IoRequest& request, uint32_t alignment) {
  STRATA_CHECK(request.bytes > 0 && request.memory != nullptr, "bytes=%u", request.bytes);
  STRATA_CHECK(request.offset <= uint64_t{INT64_MAX} - request.bytes, "offset=%llu",
               static_cast<unsigned long long>(request.offset));
  const uint64_t address = reinterpret_cast<uintptr_t>(request.memory);
  STRATA_CHECK((request.offset | request.bytes | address) % alignment == 0,
               "offset=%llu bytes=%u address=%p alignment=%u",
               static_cast<unsigned long long>(request.offset), request.bytes,
               static_cast<void*>(request.memory), alignment);
}

bool finish(Transfer& transfer, int64_t answer, IoCompletion& completion) {
  IoStatus status = IoStatus::kOk;
  int error_number = 0;
  if (answer > 0) {
    STRATA_CHECK(answer <= int64_t{transfer.bytes()}, "%lld of %u bytes",
                 static_cast<long long>(answer), transfer.bytes());
    transfer.moved += static_cast<uint32_t>(answer);
    transfer.n_repeats = 0;
    if (transfer.bytes() > 0) {
      if (transfer.moved % transfer.alignment == 0) return false;
      status = IoStatus::kEndedEarly;
    }
  } else if (answer == 0) {
    status = IoStatus::kEndedEarly;
  } else {
    error_number = static_cast<int>(-answer);
    const bool is_passing =
        error_number == EINTR || error_number == EAGAIN || error_number == EBUSY;
    if (is_passing && ++transfer.n_repeats <= kMaxRepeats) return false;
    status = io_status_of(error_number);
  }
  completion = {.id = transfer.request.id,
                .status = status,
                .error_number = error_number,
                .bytes = transfer.moved};
  return true;
}

}  // namespace strata::tiers
