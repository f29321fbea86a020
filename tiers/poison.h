// tiers/poison.h - what memory holds that holds nothing yet, or nothing any more, in debug builds.
// Why: who computes with it gets no number, in every value that depends on it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

namespace strata::tiers {

/// Two of them are NaN as f16, and so is the scale of a q8_0 row; four are NaN as f32.
inline constexpr std::byte kPoisonByte{0xFF};

/// Fills memory that is free, or handed to a read. Does nothing in builds without debug checks.
inline void poison([[maybe_unused]] std::span<std::byte> memory) {
#ifdef STRATA_DEBUG_CHECKS
  std::ranges::fill(memory, kPoisonByte);
#endif
}

}  // namespace strata::tiers
