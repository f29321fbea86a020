#include "engine/dram_budget.h"

#include <algorithm>

#include "engine/kv_placement.h"

namespace strata::engine {
namespace {

/// The least that K and V take of DRAM.
uint64_t smallest_kv(const ModelShape& shape, const ContextRequest& request) {
  const KvContext context =
      kv_context(request, request.n_ctx > 0 ? request.n_ctx : shape.n_ctx_train);
  const uint64_t whole = place_whole(shape, context).dram_bytes();
  if (request.kv_dram_bytes > 0) return std::min(whole, request.kv_dram_bytes);
  if (request.nvme_bytes == 0 || !can_spill(shape)) return whole;
  return std::min(whole, smallest_spilling_dram(shape, context));
}

}  // namespace

uint64_t weights_share(const WeightSizes& sizes, const ModelShape& shape,
                       const ContextRequest& request) {
  const uint64_t taken = smallest_kv(shape, request) + buffer_bytes(shape, request);
  const uint64_t left = request.available_bytes - std::min(request.available_bytes, taken);
  if (plan_weights(sizes, 0).total_bytes() <= left) return 0;
  return std::max(left, smallest_weight_budget(sizes));
}

}  // namespace strata::engine
