// tests/engine/mebibyte.h - the unit of sizes in tests.
#pragma once

#include <cstdint>

namespace strata::engine {

inline constexpr uint64_t kMiB = uint64_t{1} << 20;

}  // namespace strata::engine
