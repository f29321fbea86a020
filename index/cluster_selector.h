// index/cluster_selector.h - clusters: what stands for a block's 32 keys are four centroids and how
// many keys each has. The fewest bytes per key of all methods, and the fewest products of a query.
//
// Source: RetroInfer (arXiv 2505.02922), SqueezedAttention (arXiv 2411.09688) and ClusterKV (arXiv
//   2412.03213) make clusters of a context or of long segments by k-means, one for 16 to 20 keys,
//   and fetch clusters. What differs (docs/adr/0012-clusters.md): what is fetched stays a block of
//   the text, and its clusters are those of its own keys, one for eight: no key waits for others,
//   and no key needs a number. Centroids are rotated as rabitq's keys are and have four bits per
//   dimension.
// Weight of a block: ln(sum of count * exp(q . centroid)), a true weight but for what its keys
//   differ from their centroids, so that it serves for a tail: the zone that RetroInfer estimates,
//   here all that is not attended, from mean values of blocks instead of sums of clusters. Rows are
//   bytes as base/index_kernels.h lays out a tile; all bytes are valid ones.
#pragma once

#include <memory>

#include "index/tiled_selector.h"

namespace strata::index {

class ClusterSelector : public TiledSelector {
 public:
  ClusterSelector(const KvLayout& layout, const KernelTable& kernels,
                  std::shared_ptr<TileMemory> memory, uint32_t n_streams, Tail tail = Tail::kNone);

  void observe(StreamIdx stream, uint32_t block_idx, const std::byte* block) override;
  uint64_t scratch_floats(uint32_t n_queries) const override;
  void estimate(const EstimateArgs& args) const override;
  std::unique_ptr<Selector> fork() const override;

 private:
  ClusterSelector(const ClusterSelector&) = default;
};

}  // namespace strata::index
