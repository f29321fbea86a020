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
  uint32_t count(uint32_t block, uint32_t cluster) const {
    return steps_.counts[8 * cluster + block];
  }
  /// 0 to 15.
  uint32_t level(uint32_t block, uint32_t cluster, uint32_t dim) const {
    const uint32_t byte = at((uint64_t{dim / 8} * 32 + 8 * cluster + block) * 4 + dim % 4);
    return dim % 8 < 4 ? byte % 16 : byte / 16;
  }
  double base(uint32_t dim) const {
    return double{steps_.base} * (double(at(cluster_base_offset(head_dim_) + dim) % 128) - 64);
  }
  /// The rotated centroid.
  std::vector<double> centroid(uint32_t block, uint32_t cluster) const {
    std::vector<double> out(head_dim_);
    for (uint32_t d = 0; d < head_dim_; ++d)
      out[d] =
          base(d) + double{steps_.centroid[8 * cluster + block]} * (level(block, cluster, d) - 7.5);
    return out;
  }

 private:
  uint32_t at(uint64_t offset) const { return std::to_integer<uint32_t>(tile_[offset]); }

  const std::byte* tile_;
  uint32_t head_dim_;
  ClusterSteps steps_;
};

inline double square_of_gap(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t d = 0; d < a.size(); ++d) sum += (a[d] - b[d]) * (a[d] - b[d]);
  return sum;
}

/// The cluster of a block whose centroid is nearest to a rotated key.
struct NearestCluster {
  uint32_t cluster = 0;
  double square = 0;      // of the distance
  bool is_close = false;  // another one's is within the rounding of floats
};
inline NearestCluster nearest_cluster(const ClusterReader& reader, uint32_t block,
                                      const std::vector<double>& key) {
  NearestCluster best;
  double second = 0, size = 0;
  for (const double x : key) size += x * x;
  for (uint32_t c = 0; c < kBlockClusters; ++c) {
    const double square = square_of_gap(key, reader.centroid(block, c));
    if (c == 0 || square < best.square) {
      second = c == 0 ? square + size : best.square;
      best.cluster = c;
      best.square = square;
    } else if (square < second) {
      second = square;
    }
  }
  best.is_close = second - best.square < 1e-5 * size;
  return best;
}

}  // namespace strata::testing
