// tiers/hash_avx2.cc - XXH3 in instruction set "avx2".
#include "tiers/xxh3.inc"

namespace strata::tiers {

Hash128 hash_avx2(const std::byte* bytes, uint64_t n_bytes) { return xxh3(bytes, n_bytes); }

}  // namespace strata::tiers
