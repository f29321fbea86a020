// tests/allocation/counted_allocations.h - how often this program has allocated, and memory that is
// refused: its operator new, its mmap of anonymous memory and its pthread_create count, and fail
// where a test asks for it, on every thread.
#pragma once

#include <cstdint>

namespace strata::testing {

/// Calls of operator new.
uint64_t n_allocations();
/// What operator new has given and nobody has given back yet.
int64_t n_live_allocations();

/// Of what counts from now on, the k-th is refused (1 = the next); where `for_good`, all after it
/// as well. One call at a time.
void refuse_memory(uint64_t k, bool for_good);
/// Nothing is refused any more. Returns how many were asked for since refuse_memory().
uint64_t end_refusing();

}  // namespace strata::testing
