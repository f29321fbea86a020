// engine/layer_blocks.h - where the blocks of K and V of each layer are now, for who shows it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/engine.h"

namespace strata::engine {

/// Blocks of one layer, of all its KV heads. A block of `hbm` is also counted where its home is.
struct LayerBlocks {
  uint64_t hbm = 0;   // copies on a device
  uint64_t dram = 0;  // in a slot of the arena
  uint64_t nvme = 0;  // that only a file holds
};

/// Per layer, of these sequences, which must be all there are: a block that several share counts
/// once. On the thread of the walk. Cost: a look at every block of every sequence, some
/// milliseconds for a million.
std::vector<LayerBlocks> layer_blocks(Engine& engine, std::span<const Sequence* const> sequences);

}  // namespace strata::engine
