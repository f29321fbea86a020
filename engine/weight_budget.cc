#include "engine/weight_budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "base/error.h"
#include "base/even_spread.h"
#include "engine/byte_text.h"
#include "engine/panel_reader.h"

namespace strata::engine {
namespace {

/// Of n layers those that are held, and so many of the others, evenly.
std::vector<PieceSet> spread(uint64_t n_streamed, uint64_t n,
                             const std::vector<PieceSet>& held = {}) {
  std::vector<PieceSet> streamed = held;
  streamed.resize(n);
  const auto n_others = n - static_cast<uint64_t>(std::ranges::count(streamed, kWholeLayer));
  uint64_t others = 0;  // before the layer
  for (PieceSet& of : streamed)
    if (!of.is_whole() && is_spread_to(others++, n_streamed, n_others)) of = kWholeLayer;
  return streamed;
}

}  // namespace

const LayerSize& WeightSizes::streamed_size(size_t layer, PieceSet streamed) const {
  STRATA_CHECK(streamed.is_any(), "nothing of layer %zu", layer);
  if (streamed.is_whole()) return layers[layer];
  STRATA_CHECK(layer < pieces.size(), "pieces of layer %zu of %zu", layer, pieces.size());
  return pieces[layer][static_cast<size_t>(streamed.attention ? LayerPiece::kAttention
                                                              : LayerPiece::kFfn)];
}

uint32_t WeightPlan::n_streamed() const {
  return static_cast<uint32_t>(std::ranges::count_if(streamed, &PieceSet::is_any));
}

uint32_t WeightPlan::n_in_part() const {
  return n_streamed() - static_cast<uint32_t>(std::ranges::count(streamed, kWholeLayer));
}

WeightPlan weight_plan_of(const WeightSizes& sizes, std::vector<PieceSet> streamed) {
  WeightPlan plan;
  plan.streamed = std::move(streamed);
  plan.resident_bytes = sizes.always_bytes;
  uint32_t n_reads_max = 0;
  uint64_t read_bytes_max = 0;
  for (size_t i = 0; i < sizes.layers.size(); ++i) {
    plan.resident_bytes += sizes.layers[i].packed_bytes;
    if (!plan.streamed[i].is_any()) continue;
    const LayerSize& part = sizes.streamed_size(i, plan.streamed[i]);
    plan.resident_bytes -= part.packed_bytes;
    plan.slot_bytes = std::max(plan.slot_bytes, part.packed_bytes);
    n_reads_max = std::max(n_reads_max, part.n_reads);
    read_bytes_max = std::max(read_bytes_max, part.read_bytes_max);
  }
  plan.n_slots = std::min(kWeightSlots, plan.n_streamed());
  if (plan.n_slots == 0) return plan;
  plan.n_buffers =
      std::min(kReadBuffersMax, std::min(plan.n_slots + 1, plan.n_streamed()) * n_reads_max);
  plan.buffer_bytes = read_buffer_bytes(read_bytes_max);
  return plan;
}

uint64_t smallest_weight_budget(const WeightSizes& sizes) {
  uint64_t smallest = std::numeric_limits<uint64_t>::max();
  const size_t n_layers = sizes.layers.size();
  for (size_t n_streamed = 0; n_streamed <= n_layers; ++n_streamed)
    smallest =
        std::min(smallest, weight_plan_of(sizes, spread(n_streamed, n_layers)).total_bytes());
  return smallest;
}

WeightPlan plan_weights(const WeightSizes& sizes, uint64_t budget_bytes,
                        const std::vector<PieceSet>& held) {
  const size_t n_layers = sizes.layers.size();
  const auto n_held = static_cast<size_t>(std::ranges::count(held, kWholeLayer));
  for (size_t n_streamed = 0; n_streamed <= n_layers - n_held; ++n_streamed) {
    WeightPlan plan = weight_plan_of(sizes, spread(n_streamed, n_layers, held));
    if (budget_bytes == 0 || plan.total_bytes() <= budget_bytes) return plan;
  }
  const uint64_t smallest = smallest_weight_budget(sizes);
  throw Error(ErrorCode::kDoesNotFit,
              fmt::format("the weights need {} even where every layer that can be is streamed from "
                          "the file, --weights-dram allows {}",
                          bytes_text(smallest), bytes_text(budget_bytes)),
              "--weights-dram", fmt::format("use --weights-dram {}", size_argument(smallest)));
}

}  // namespace strata::engine
