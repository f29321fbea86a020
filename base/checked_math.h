// base/checked_math.h - sizes that a file or a user supplied,
// multiplied and added without wrapping.
#pragma once

#include <cstdint>
#include <optional>

namespace strata {

/// The product, or nothing where it does not fit 64 bits.
inline std::optional<uint64_t> checked_mul(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

/// The sum, or nothing where it does not fit 64 bits.
inline std::optional<uint64_t> checked_add(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

/// `value` rounded up to a multiple of `alignment` (a power of two), or nothing where that wraps.
inline std::optional<uint64_t> checked_round_up(uint64_t value, uint64_t alignment) {
  const auto sum = checked_add(value, alignment - 1);
  if (!sum) return std::nullopt;
  return *sum & ~(alignment - 1);
}

/// For sizes already known to be small: rounds up to a multiple of any positive `step`.
constexpr uint64_t round_up(uint64_t value, uint64_t step) {
  return (value + step - 1) / step * step;
}
constexpr uint64_t div_up(uint64_t value, uint64_t step) { return (value + step - 1) / step; }

}  // namespace strata
