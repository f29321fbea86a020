// engine/text_roots.h - what stands before the first token of a text's chain hashes
// (KvCache::make_sequence), so that texts with the same tokens are not found for each other.
#pragma once

#include <cstdint>
#include <string_view>

#include "index/choose.h"
#include "index/method.h"
#include "tiers/block_tag.h"

namespace strata::engine {

/// Of texts that only this owner finds again; "" = of everybody.
tiers::Hash128 prefix_root(std::string_view owner);

/// How prompts are read by selected chunks (GenerationRequest::sparse_from). K and V of a text that
/// was read so follow from all of it.
struct SparseReading {
  index::Method method;
  index::Rule rule;
  uint64_t from = 0;        // position
  uint64_t chunk_rows = 0;  // of a step
};

/// Of texts that are read in this way: neither exact readings nor those of another way are theirs.
tiers::Hash128 sparse_root(const SparseReading& reading);

}  // namespace strata::engine
