#define XXH_INLINE_ALL
#define XXH_VECTOR 0  // XXH_SCALAR, a name that the header defines only when it is included
#include <xxhash.h>

#include "tests/tiers/xxh3_reference.h"

#if XXH_VECTOR != XXH_SCALAR
#error "the reference is to be the code without vectors"
#endif

namespace strata::tiers {

Hash128 reference_hash(std::span<const std::byte> bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.low64, hash.high64};
}

}  // namespace strata::tiers
