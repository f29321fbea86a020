// engine/text/hashing.h - a bijective mix of 64 bits, for the flat tables of this folder.
#pragma once

#include <cstdint>

namespace strata::engine {

/// A bound on one look-up. At most half of a table is filled, so real vocabularies stay below 100.
inline constexpr uint32_t kMaxProbes = 1024;

/// Every input bit changes every output bit with probability near one half.
/// Source: the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators", OOPSLA 2014).
constexpr uint64_t mix_bits(uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9u;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBu;
  return bits ^ (bits >> 31);
}

}  // namespace strata::engine
