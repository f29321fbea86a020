// engine/kv_room.h - whether the K and V of several sequences have room to grow, before any of them
// does: a step that finds no room ends an answer in its middle.
#pragma once

#include <cstdint>
#include <span>

#include "engine/kv_cache.h"

namespace strata::engine {

/// A sequence, and the positions it may come to have.
struct SequenceGoal {
  const Sequence* sequence = nullptr;
  uint64_t n_positions = 0;
};

/// Whether all of them can grow as far, in any order: with nothing else in the cache, or beside all
/// that is in it. Blocks that several refer to count once; what each may have to copy counts for
/// each, so the answer may be no where it would just have gone well. Where K and V spill, DRAM must
/// hold what cannot leave it, and the spill file the rest. Costs a look at each block of one stream
/// per kind of layer.
bool could_hold(const KvCache& cache, std::span<const SequenceGoal> goals);
bool can_hold(const KvCache& cache, std::span<const SequenceGoal> goals);

}  // namespace strata::engine
