#include "tests/gpu_emu/async_copy.h"

#include <algorithm>

#include "tests/gpu_emu/sanitizers.h"
#include "tests/gpu_emu/scheduler.h"
#include "tests/gpu_emu/shared_memory.h"

namespace strata::gpu_emu {

void note_copy(const AsyncCopy& copy, std::source_location where) {
  const Bookkeeping scope;
  check_shared16(copy.to, where);
  if (copy.from != nullptr) check_global(copy.from, 16, where);
  AsyncCopies& own = current->copies;
  own.issued.push_back({.copy = copy, .where = where, .group = own.n_groups});
}

void commit_copies() { ++current->copies.n_groups; }

AsyncCopy next_copy(uint32_t n_pending) {
  const Bookkeeping scope;
  AsyncCopies& own = current->copies;
  const uint32_t n_covered = own.n_groups - std::min(own.n_groups, n_pending);
  if (own.n_delivered < own.issued.size() && own.issued[own.n_delivered].group < n_covered)
    return own.issued[own.n_delivered++].copy;
  own.issued.erase(own.issued.begin(), own.issued.begin() + own.n_delivered);
  own.n_delivered = 0;
  return {};
}

}  // namespace strata::gpu_emu
