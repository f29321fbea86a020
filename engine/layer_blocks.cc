#include "engine/layer_blocks.h"

#include <cmath>

#include "engine/device_walk.h"

namespace strata::engine {
namespace {

/// Shares of blocks: who holds one of n references to it counts an n-th.
struct Shares {
  double hbm = 0, dram = 0, nvme = 0;
};

void add_blocks(const tiers::BlockStore& store, const DeviceWalk* device,
                std::span<const tiers::BlockId> blocks, Shares& sums) {
  for (const tiers::BlockId block : blocks) {
    const double share = 1.0 / store.references(block);
    (store.is_resident(block) ? sums.dram : sums.nvme) += share;
    if (device != nullptr && device->has_copy(block)) sums.hbm += share;
  }
}

}  // namespace

std::vector<LayerBlocks> layer_blocks(Engine& engine, std::span<const Sequence* const> sequences) {
  const KvCache& cache = engine.cache();
  std::vector<LayerBlocks> layers;
  for (uint32_t layer = 0; layer < cache.shape().n_layers; ++layer) {
    Shares sums;
    for (const Sequence* sequence : sequences)
      for (uint32_t head = 0; head < cache.shape().layers[layer].n_kv_heads; ++head)
        add_blocks(cache.store(), engine.walk().device(),
                   cache.stream_blocks(*sequence, layer, head).blocks, sums);
    const auto whole = [](double sum) { return static_cast<uint64_t>(std::llround(sum)); };
    layers.push_back({whole(sums.hbm), whole(sums.dram), whole(sums.nvme)});
  }
  return layers;
}

}  // namespace strata::engine
