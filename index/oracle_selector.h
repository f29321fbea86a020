// index/oracle_selector.h - the exact weight of every block, from a copy of its keys: what no
// method can beat. For tests and `eval`: it reads as many keys as exact attention does.
#pragma once

#include <memory>

#include "index/tiled_selector.h"

namespace strata::index {

class OracleSelector : public TiledSelector {
 public:
  OracleSelector(const KvLayout& layout, const KernelTable& kernels,
                 std::shared_ptr<TileMemory> memory, uint32_t n_streams);
  /// Keys of an extent as f32.
  static uint64_t tile_bytes(uint32_t head_dim) {
    return uint64_t{head_dim} * kExtentPositions * sizeof(float);
  }

  void observe(StreamIdx stream, uint32_t block_idx, const std::byte* block) override;
  uint64_t scratch_floats(uint32_t) const override { return 0; }
  void estimate(const EstimateArgs& args) const override;
  std::unique_ptr<Selector> fork() const override;

 private:
  OracleSelector(const OracleSelector&) = default;
  const float* keys(StreamIdx stream, uint32_t block) const;
};

}  // namespace strata::index
