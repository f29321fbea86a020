// index/cluster_selector.h - clusters of keys: every key is the number of a centroid, and a query is
// multiplied with centroids only. The fewest bytes per key of the methods that look at every key.
//
// Source: RetroInfer (arXiv 2505.02922), SqueezedAttention (arXiv 2411.09688) and ClusterKV (arXiv
//   2412.03213) cluster the keys of a context or of long segments by k-means, one centroid for 16
//   to 20 keys, and fetch clusters. What differs (docs/adr/0012-clusters.md): what is fetched stays
//   a block of the text, which weighs what its keys' centroids do; clusters are made block by
//   block, so that no key waits for others and nothing is trained twice: a block adds four
//   centroids where its keys are far from those there are, and its keys take the nearest of these,
//   of its extent's and of the extent's before. RoPE turns keys, so that older ones are of no use.
// Weight of a block: ln(sum exp) of its 32 keys' centroids. Rows are bytes as base/index_kernels.h
//   lays out a tile; all bytes are valid ones. A tile is read with the one before it.
#pragma once

#include <memory>

#include "index/tiled_selector.h"

namespace strata::index {

class ClusterSelector : public TiledSelector {
 public:
  ClusterSelector(const KvLayout& layout, const KernelTable& kernels,
                  std::shared_ptr<TileMemory> memory, uint32_t n_streams);

  /// Blocks of a stream in ascending order.
  void observe(StreamIdx stream, uint32_t block_idx, const std::byte* block) override;
  uint64_t scratch_floats(uint32_t n_queries) const override;
  void estimate(const EstimateArgs& args) const override;
  std::unique_ptr<Selector> fork() const override;

 private:
  ClusterSelector(const ClusterSelector&) = default;
  /// The tile before an extent's, or null.
  const std::byte* tile_before(StreamIdx stream, uint32_t extent) const;
};

}  // namespace strata::index
