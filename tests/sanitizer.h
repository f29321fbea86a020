// tests/sanitizer.h - which sanitizer this binary is built with.
// Why: what a test does over and over, the release suite does in full; a sanitizer looks at how it
// is done, and needs a few rounds.
#pragma once

#include <cstdint>

namespace strata::sanitizer {

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kAddress = true;
#else
inline constexpr bool kAddress = false;
#endif
#if defined(__SANITIZE_THREAD__)
inline constexpr bool kThread = true;
#else
inline constexpr bool kThread = false;
#endif
inline constexpr bool kAny = kAddress || kThread;

/// Rounds of a test: `all`, but `few` under a sanitizer.
constexpr uint64_t rounds(uint64_t all, uint64_t few) { return kAny ? few : all; }

}  // namespace strata::sanitizer
