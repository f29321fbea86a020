// index/digest_selector.h - methods that keep a digest of each page of 16 positions and score a
// page by one inner product: Quest's bounds, mean landmarks, ArkVale's cuboids.
//
// Quest (arXiv 2406.10774, section 3.2): with M and m the largest and least key per dimension of a
//   page, q . k <= sum_j max(q_j m_j, q_j M_j) = relu(q) . M + min(q, 0) . m for every key of it.
// ArkVale (NeurIPS 2024, "cuboid-mean"): the same product over the cuboid c +- r, with c = (m + M)
//   / 2 and r the mean of |k - c| per dimension: no bound, but not ruled by one outlier.
// Mean: q . mean(k), as ShadowKV's landmarks (arXiv 2410.21465).
// A page's weight is its score, a block's the larger of its two pages'. Digests are bf16, rounded
// to nearest, and so is q: a score may err by 2^-8 of sum |q_j| |digest_j|.
#pragma once

#include <memory>

#include "index/tiled_selector.h"

namespace strata::index {

enum class Digest : uint8_t { kBounds, kCuboid, kMean };

class DigestSelector : public TiledSelector {
 public:
  DigestSelector(Digest digest, const KvLayout& layout, const KernelTable& kernels,
                 std::shared_ptr<TileMemory> memory, uint32_t n_streams);

  /// Values that a page's digest has.
  static uint32_t n_dims(Digest digest, uint32_t head_dim) {
    return digest == Digest::kMean ? head_dim : 2 * head_dim;
  }

  void observe(StreamIdx stream, uint32_t block_idx, const std::byte* block) override;
  uint64_t scratch_floats(uint32_t n_queries) const override;
  void estimate(const EstimateArgs& args) const override;
  std::unique_ptr<Selector> fork() const override;

 private:
  DigestSelector(const DigestSelector&) = default;
  void put_query(const float* q, uint16_t* out) const;

  Digest digest_;
};

}  // namespace strata::index
