#include "tiers/open_io.h"

#include "base/error.h"
#include "tiers/thread_io.h"
#include "tiers/uring_io.h"

namespace strata::tiers {

std::unique_ptr<Io> open_io(IoChoice choice, uint32_t depth, std::string& notice) {
  notice.clear();
  if (choice == IoChoice::kUring) return open_uring_io(depth);
  if (choice == IoChoice::kAuto) {
    try {
      return open_uring_io(depth);
    } catch (const Error& refusal) {
      notice = std::string(refusal.what()) +
               "; threads move the bytes instead: the same answers, more CPU time per transfer";
    }
  }
  return std::make_unique<ThreadIo>(depth);
}

}  // namespace strata::tiers
