// tiers/hash_avx512.cc - XXH3 in instruction set "avx512".
#include "tiers/xxh3.inc"

namespace strata::tiers {

Hash128 hash_avx512(const std::byte* bytes, uint64_t n_bytes) { return xxh3(bytes, n_bytes); }

}  // namespace strata::tiers
