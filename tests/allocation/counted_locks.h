// tests/allocation/counted_locks.h - how often this program has locked a mutex: its
// pthread_mutex_lock, which std::mutex calls, counts on every thread.
#pragma once

#include <cstdint>

namespace strata::testing {

uint64_t n_locks();

}  // namespace strata::testing
