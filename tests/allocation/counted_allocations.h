// tests/allocation/counted_allocations.h - how often this program has allocated. The binary's operator new
// counts (counted_allocations.cc), on every thread.
#pragma once

#include <cstdint>

namespace strata::testing {

uint64_t n_allocations();

}  // namespace strata::testing
