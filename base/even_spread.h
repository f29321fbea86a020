// base/even_spread.h - which k of n things in a row are spread evenly: runs of the others before
// each of them differ by at most one in length.
#pragma once

#include <cstdint>

namespace strata {

/// Whether number i, below n, is one of the k. Exactly k of n are; i * k does not wrap.
constexpr bool is_spread_to(uint64_t i, uint64_t k, uint64_t n) {
  return (i + 1) * k / n != i * k / n;
}

}  // namespace strata
