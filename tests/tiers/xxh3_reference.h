// tests/tiers/xxh3_reference.h - XXH3, 128 bits, by the library's code without vectors: what the
// kernels of every instruction set are compared with.
#pragma once

#include <span>

#include "tiers/block_tag.h"

namespace strata::tiers {

Hash128 reference_hash(std::span<const std::byte> bytes);

}  // namespace strata::tiers
