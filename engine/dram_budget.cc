#include "engine/dram_budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "engine/byte_text.h"
#include "engine/kv_placement.h"

namespace strata::engine {
namespace {

constexpr uint64_t kDramGrain = uint64_t{16} << 10;

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
                       const ContextRequest& request, const std::vector<PieceSet>& held) {
  const uint64_t taken = smallest_kv(shape, request) + buffer_bytes(shape, request);
  const uint64_t left = request.available_bytes - std::min(request.available_bytes, taken);
  if (plan_weights(sizes, 0, held).total_bytes() <= left) return 0;
  return std::max(left, smallest_weight_budget(sizes));
}

DividedDram divide_dram(const WeightSizes& sizes, const ModelShape& shape, ContextRequest request,
                        uint64_t weights_dram_bytes, const std::vector<PieceSet>& held) {
  if (request.is_budgeted && weights_dram_bytes == 0)
    weights_dram_bytes = weights_share(sizes, shape, request, held);
  WeightPlan weights = plan_weights(sizes, weights_dram_bytes, held);
  request.weight_bytes = weights.total_bytes();
  request.weight_bytes_min = smallest_weight_budget(sizes);
  return {std::move(weights), plan_context(shape, request)};
}

uint64_t smallest_dram(const WeightSizes& sizes, const ModelShape& shape, ContextRequest request,
                       uint64_t weights_dram_bytes, uint64_t available_max) {
  const auto fits = [&](uint64_t available_bytes) {
    request.available_bytes = available_bytes;
    try {
      (void)divide_dram(sizes, shape, request, weights_dram_bytes);
      return true;
    } catch (const Error&) {  // what is wrong besides is not what was refused
      return false;
    }
  };
  uint64_t refused = request.available_bytes, enough = available_max;
  if (enough <= refused || !fits(enough)) return 0;
  while (enough - refused > kDramGrain) {
    const uint64_t middle = refused + (enough - refused) / 2;
    (fits(middle) ? enough : refused) = middle;
  }
  return enough + kProcessBytes;
}

std::string remedy_with_dram(const std::string& remedy, uint64_t dram_bytes) {
  const std::string change = fmt::format("--dram {}", size_argument(dram_bytes));
  return remedy.starts_with("use ") ? fmt::format("use {}, or {}", change, remedy.substr(4))
                                    : fmt::format("use {}, or {}", change, remedy);
}

}  // namespace strata::engine
