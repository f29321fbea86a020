// tests/allocation/counted_allocations.h - how often this program has allocated: its operator new
// counts, on every thread.
#pragma once

#include <cstdint>

namespace strata::testing {

uint64_t n_allocations();

}  // namespace strata::testing
