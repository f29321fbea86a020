// tiers/hash_scalar.cc - XXH3 in SSE2, which every x86-64 CPU has.
#include "tiers/xxh3.inc"

namespace strata::tiers {

Hash128 hash_scalar(const std::byte* bytes, uint64_t n_bytes) { return xxh3(bytes, n_bytes); }

}  // namespace strata::tiers
