// index/sparq_selector.h - every key once more, dimension by dimension, so that a query reads only
// the dimensions in which it is large itself. Nothing is trained, keys are rounded to f16 at most:
// what is chosen is which part of them is read.
//
// Source: SparQ (arXiv 2312.04985), steps 1 and 2 of its algorithm: the r components of q that are
//   largest in magnitude, and scores q_r . k_r with the softmax's temperature sqrt(d |q_r| / |q|),
//   lengths as sums of magnitudes. r is a quarter of head_dim, as the paper has 32 of 128. What
//   differs (docs/adr/0021-sparq.md): each query of a group has components of its own; blocks are
//   chosen, by the weight of their 32 keys; and there is no mean value (step 3).
// Weight of a block: ln(sum exp) of its 32 scores. They lack what the other components would have
//   added, 1.4 to 2.0 nat in the mean and 0.8 to 1.2 around it, so they do not serve for a tail.
// Rows are bytes as base/index_kernels.h lays out a tile; all bytes are valid ones.
#pragma once

#include <memory>

#include "index/tiled_selector.h"

namespace strata::index {

class SparqSelector : public TiledSelector {
 public:
  SparqSelector(const KvLayout& layout, const KernelTable& kernels,
                std::shared_ptr<TileMemory> memory, uint32_t n_streams);

  /// r: components of each query that are read.
  static uint32_t n_components(uint32_t head_dim) { return (head_dim + 3) / 4; }
  /// Of the rows of n_blocks blocks, at most what n_queries queries read.
  static uint64_t read_bytes_max(uint64_t n_blocks, uint32_t head_dim, uint32_t n_queries);

  void observe(StreamIdx stream, uint32_t block_idx, const std::byte* block) override;
  uint64_t scratch_floats(uint32_t n_queries) const override;
  void estimate(const EstimateArgs& args) const override;
  /// A component that several queries have is read once.
  uint64_t estimate_bytes(uint64_t n_blocks, const float* q, uint32_t n_queries) const override;
  std::unique_ptr<Selector> fork() const override;

 private:
  SparqSelector(const SparqSelector&) = default;
};

}  // namespace strata::index
