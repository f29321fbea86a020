// index/rabitq_selector.h - analytic codes: every key rotated and rounded to 3 bits per dimension.
// Nothing is trained, so nothing drifts, no key waits for others than those of its block, and a
// query prepares itself once for each estimate().
//
// Source: extended RaBitQ (arXiv 2409.09913) after RaBitQ (arXiv 2405.12497): x = c + r;
//   with a random rotation R, R r is rounded to a grid of b bits, and q . x = q . c + factor * (R q
//   . code) with a factor of its own for each x. ParisKV (arXiv 2602.07721) does this to keys. What
//   differs (docs/adr/0011-analytic-codes.md): c is the mean of a block's 32 keys; the rotation is
//   a Walsh-Hadamard transform with fixed signs; the grid follows from |r| instead of a search; the
//   factor is that of least squared error.
// Weight of a block: ln(sum exp) of its 32 products, within 0.06 nat of that of the rounded keys
//   and queries (base/index_kernels.h), so that they serve for a tail as they are. Rows are bytes
//   as base/index_kernels.h lays out a tile; all bytes are valid ones.
#pragma once

#include <memory>

#include "index/tiled_selector.h"

namespace strata::index {

class RabitqSelector : public TiledSelector {
 public:
  RabitqSelector(const KvLayout& layout, const KernelTable& kernels,
                 std::shared_ptr<TileMemory> memory, uint32_t n_streams, Tail tail = Tail::kNone);

  void observe(StreamIdx stream, uint32_t block_idx, const std::byte* block) override;
  uint64_t scratch_floats(uint32_t n_queries) const override;
  void estimate(const EstimateArgs& args) const override;
  const TileTable* rotated_codes() const override { return has_tail() ? nullptr : &table_; }
  std::unique_ptr<Selector> fork() const override;

 private:
  RabitqSelector(const RabitqSelector&) = default;
};

}  // namespace strata::index
