// tests/tiers/long_run.h - how often a test repeats what it draws at random: few times in
// continuous integration, as often as one likes by an environment variable (docs/fault-model.md).
#pragma once

#include <cstdint>
#include <cstdlib>

namespace strata::tiers {

/// The number in the environment variable `name`, or `otherwise` where it is not set.
inline uint64_t repeats(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

}  // namespace strata::tiers
