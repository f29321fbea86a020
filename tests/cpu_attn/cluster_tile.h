// tests/cpu_attn/cluster_tile.h - tiles of clusters taken apart by the definitions of
// base/index_kernels.h, in double precision.
#pragma once

#include <cstring>
#include <vector>

#include "base/index_kernels.h"

namespace strata::testing {

/// Reads a tile of rows.
class ClusterReader {
 public:
  ClusterReader(const std::byte* tile, uint32_t head_dim) : tile_(tile), head_dim_(head_dim) {
    std::memcpy(&steps_, tile + cluster_steps_offset(head_dim), sizeof(steps_));
  }
  const ClusterSteps& steps() const { return steps_; }
  bool is_infinite(uint32_t block) const { return (steps_.infinite >> block & 1u) != 0; }
  /// Of the 64 centroids that a key may have.
  uint32_t number(uint32_t block, uint32_t key) const { return at(uint64_t{key} * 8 + block) % 64; }
  /// 0 to 15.
  uint32_t level(uint32_t cluster, uint32_t dim) const {
    const uint32_t byte = at(256 + (uint64_t{dim / 8} * 32 + cluster) * 4 + dim % 4);
    return dim % 8 < 4 ? byte % 16 : byte / 16;
  }
  double base(uint32_t dim) const {
    return double{steps_.base} * (double(at(cluster_base_offset(head_dim_) + dim) % 128) - 64);
  }
  /// The rotated centroid.
  std::vector<double> centroid(uint32_t cluster) const {
    std::vector<double> out(head_dim_);
    for (uint32_t d = 0; d < head_dim_; ++d)
      out[d] = base(d) + double{steps_.centroid[cluster]} * (level(cluster, d) - 7.5);
    return out;
  }

 private:
  uint32_t at(uint64_t offset) const { return std::to_integer<uint32_t>(tile_[offset]); }

  const std::byte* tile_;
  uint32_t head_dim_;
  ClusterSteps steps_;
};

/// What stands for a key of `tile`; `before` is the tile before it, or null.
inline std::vector<double> cluster_of(const std::byte* before, const std::byte* tile,
                                      uint32_t head_dim, uint32_t block, uint32_t key) {
  const uint32_t number = ClusterReader(tile, head_dim).number(block, key);
  if (number >= kTileClusters)
    return ClusterReader(tile, head_dim).centroid(number - kTileClusters);
  if (before == nullptr) return std::vector<double>(head_dim);
  return ClusterReader(before, head_dim).centroid(number);
}

}  // namespace strata::testing
