#include "engine/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "base/checked_math.h"
#include "base/error.h"
#include "engine/byte_text.h"
#include "engine/dram_budget.h"

namespace strata::engine {
namespace {

constexpr const char* kAnew = "plan anew (`strata plan --save FILE`)";
constexpr uint64_t kMaxContext = std::numeric_limits<int32_t>::max();

[[noreturn]] void refuse(ErrorCode code, std::string_view field, const std::string& what,
                         const std::string& remedy) {
  throw Error(code, what, fmt::format("plan: {}", field), remedy);
}

void check_layers(size_t n_placed, size_t n_layers) {
  if (n_placed == n_layers) return;
  refuse(ErrorCode::kUsage, "layers",
         fmt::format("the plan is of {} layers, the model has {}", n_placed, n_layers),
         fmt::format("use the plan with the model it was made for, or {}", kAnew));
}

void check_context(const ModelShape& shape, const ContextRequest& request,
                   const Placement& placement) {
  if (placement.n_ctx == 0 || placement.n_ctx > kMaxContext)
    refuse(
        ErrorCode::kUsage, "n_ctx",
        fmt::format("wanted a context of 1 to {} tokens, found {}", kMaxContext, placement.n_ctx),
        kAnew);
  if (placement.n_ctx > shape.n_ctx_train && !request.allow_untrained)
    refuse(ErrorCode::kUsage, "n_ctx",
           fmt::format("the plan has a context of {} tokens, the model was trained for {}",
                       placement.n_ctx, shape.n_ctx_train),
           fmt::format("{} with -c {}, or pass --allow-untrained", kAnew, shape.n_ctx_train));
}

/// Rows of a step; refused where its buffers would be larger than any step's may be.
uint32_t checked_chunk(const ModelShape& shape, const ContextRequest& request) {
  const uint32_t most = chunk_rows_for(shape, request);
  if (request.chunk_rows == 0 || request.chunk_rows > most)
    refuse(ErrorCode::kDoesNotFit, "chunk_rows",
           fmt::format("wanted 1 to {} rows in a step of this model, found {}", most,
                       request.chunk_rows),
           fmt::format("use a chunk_rows of at most {}", most));
  return static_cast<uint32_t>(std::min<uint64_t>(request.chunk_rows, request.n_ctx));
}

KvPlacement place_kv(const ModelShape& kv_shape, const ContextRequest& request,
                     const Placement& placement) {
  const KvContext context = kv_context(request, placement.n_ctx);
  if (!placement.is_spilling()) return place_whole(kv_shape, context);
  if (!can_spill(kv_shape) || request.nvme_bytes == 0)
    refuse(ErrorCode::kDoesNotFit, "kv_dram_bytes",
           can_spill(kv_shape) ? "the plan spills K and V, and there is no spill file"
                               : "the plan spills K and V, and no layer of the model can",
           can_spill(kv_shape) ? "name a folder with --nvme, or leave kv_dram_bytes out"
                               : "leave kv_dram_bytes out of the plan");
  const uint64_t smallest = smallest_spilling_dram(kv_shape, context);
  if (placement.kv_dram_bytes < smallest)
    refuse(ErrorCode::kDoesNotFit, "kv_dram_bytes",
           fmt::format("{} for K and V beside a spill file, where a step needs {}",
                       bytes_text(placement.kv_dram_bytes), bytes_text(smallest)),
           fmt::format("use a kv_dram_bytes of at least {}", smallest));
  const uint64_t file = spill_bytes(kv_shape, context);
  if (file > request.nvme_bytes)
    refuse(ErrorCode::kDoesNotFit, "kv_dram_bytes",
           fmt::format("a context of {} tokens needs {} on disk, the spill file may have {}",
                       placement.n_ctx, bytes_text(file), bytes_text(request.nvme_bytes)),
           fmt::format("use --nvme-budget {}, or plan a smaller context", size_argument(file)));
  return place_spilling(kv_shape, context, placement.kv_dram_bytes);
}

struct PlacedBytes {
  uint64_t weights = 0, buffers = 0, kv = 0;
  /// The smallest --dram that holds them; nothing where that is beyond 64 bits.
  std::optional<uint64_t> dram_bytes() const {
    std::optional<uint64_t> sum = kProcessBytes;
    for (const uint64_t part : {weights, buffers, kv})
      if (sum) sum = checked_add(*sum, part);
    return sum;
  }
};

/// A larger --dram is proposed only where the machine has it free.
[[noreturn]] void refuse_sum(const ContextRequest& request, uint64_t free_bytes,
                             const PlacedBytes& placed) {
  const std::optional<uint64_t> wanted = placed.dram_bytes();
  const bool would_do = wanted && *wanted - kProcessBytes <= free_bytes;
  const bool is_budget = request.is_budgeted && (would_do || request.available_bytes < free_bytes);
  std::string remedy = kAnew;
  if (is_budget && would_do) {
    remedy = fmt::format("use --dram {}, or {}", size_argument(*wanted), kAnew);
  } else if (wanted) {
    remedy = fmt::format("free memory ({} are wanted, {} are free), or {}", bytes_text(*wanted),
                         bytes_text(free_bytes), kAnew);
  }
  throw Error(
      ErrorCode::kDoesNotFit,
      fmt::format("the plan needs {} for weights, {} for buffers and {} for K and V, {} {}",
                  bytes_text(placed.weights), bytes_text(placed.buffers), bytes_text(placed.kv),
                  is_budget ? "--dram leaves them" : "this machine has free",
                  bytes_text(request.available_bytes)),
      is_budget ? "--dram" : "plan: kv_dram_bytes, layers", remedy);
}

/// Every part alone first, so that no sum exceeds 64 bits.
void check_budget(const ContextRequest& request, uint64_t weights_dram_bytes, uint64_t free_bytes,
                  const PlacedMemory& placed, uint64_t buffers) {
  const uint64_t weights = placed.weights.total_bytes(), kv = placed.context.kv.dram_bytes();
  if (weights_dram_bytes > 0 && weights > weights_dram_bytes)
    refuse(ErrorCode::kDoesNotFit, "layers",
           fmt::format("the plan needs {} for weights, --weights-dram allows {}",
                       bytes_text(weights), bytes_text(weights_dram_bytes)),
           fmt::format("use --weights-dram {}, or {}", size_argument(weights), kAnew));
  // As with the rules by hand: a cap beyond what there is is none.
  if (request.kv_dram_bytes > 0 && request.kv_dram_bytes < request.available_bytes &&
      kv > request.kv_dram_bytes)
    refuse(ErrorCode::kDoesNotFit, "kv_dram_bytes",
           fmt::format("the plan needs {} for K and V, --kv-dram allows {}", bytes_text(kv),
                       bytes_text(request.kv_dram_bytes)),
           fmt::format("use --kv-dram {}, or {}", size_argument(kv), kAnew));
  uint64_t left = request.available_bytes;
  for (const uint64_t part : {weights, buffers, kv}) {
    if (part > left) refuse_sum(request, free_bytes, {weights, buffers, kv});
    left -= part;
  }
}

}  // namespace

PlacedMemory place_memory(const WeightSizes& sizes, const ModelShape& shape,
                          const ModelShape& kv_shape, const ContextRequest& limits,
                          uint64_t weights_dram_bytes, uint64_t free_bytes,
                          const Placement& placement) {
  ContextRequest request = limits;
  request.n_ctx = placement.n_ctx;
  request.k_codec = placement.k_codec;
  request.v_codec = placement.v_codec;
  request.chunk_rows = placement.chunk_rows;
  request.has_device = placement.has_device();
  request.spills_beside = placement.has_device() && placement.is_spilling();
  check_layers(placement.streamed.size(), sizes.layers.size());
  check_context(shape, request, placement);
  check_codecs(shape, request);
  PlacedMemory placed;
  placed.context.n_ctx = placement.n_ctx;
  placed.context.chunk_rows = checked_chunk(shape, request);
  placed.weights = weight_plan_of(sizes, placement.streamed);
  placed.context.kv = place_kv(kv_shape, request, placement);
  check_budget(request, weights_dram_bytes, free_bytes, placed, buffer_bytes(shape, request));
  return placed;
}

DevicePlan place_on_device(const DeviceNeeds& needs, uint64_t hbm_bytes,
                           const Placement& placement) {
  check_layers(placement.resident.size(), needs.layer_bytes.size());
  if (!placement.on_cpu.empty()) check_layers(placement.on_cpu.size(), needs.layer_bytes.size());
  for (size_t layer = 0; layer < placement.on_cpu.size(); ++layer)
    if (common_pieces(placement.on_cpu[layer], placement.streamed[layer]).is_any())
      refuse(
          ErrorCode::kUnsupported, "layers",
          fmt::format("the CPU is to multiply by weights of layer {} that are read from the file "
                      "in every step",
                      layer),
          "let the card multiply by them (\"file\"), or keep them in memory");
  DevicePlan plan = device_plan_of(needs, placement.resident);
  if (placement.index_in_hbm) plan.index_bytes = needs.index_bytes;
  plan.hbm_bytes += plan.index_bytes;
  const char* others =
      plan.index_bytes > 0 ? "weights, buffers and the index" : "weights and buffers";
  if (plan.hbm_bytes > hbm_bytes)
    refuse(ErrorCode::kDoesNotFit, plan.index_bytes > 0 ? "layers, kv.index_in_hbm" : "layers",
           fmt::format("the plan needs {} of the device's memory for {}, there are {} for it",
                       bytes_text(plan.hbm_bytes), others, bytes_text(hbm_bytes)),
           fmt::format("raise --hbm to {}, or {}", size_argument(plan.hbm_bytes), kAnew));
  if (placement.kv_hbm_bytes > hbm_bytes - plan.hbm_bytes)
    refuse(ErrorCode::kDoesNotFit, "kv_hbm_bytes",
           fmt::format("{} for copies of K and V, where {} leave {} of the device's memory",
                       bytes_text(placement.kv_hbm_bytes), others,
                       bytes_text(hbm_bytes - plan.hbm_bytes)),
           fmt::format("use a kv_hbm_bytes of at most {}", hbm_bytes - plan.hbm_bytes));
  plan.kv_bytes =
      std::min(placement.kv_hbm_bytes, needs.kv_bytes) / needs.block_bytes * needs.block_bytes;
  if (plan.kv_bytes < needs.kv_bytes_min)
    refuse(ErrorCode::kDoesNotFit, "kv_hbm_bytes",
           fmt::format("{} for copies of K and V, where what a layer chooses needs {}",
                       bytes_text(plan.kv_bytes), bytes_text(needs.kv_bytes_min)),
           fmt::format("use a kv_hbm_bytes of at least {}", needs.kv_bytes_min));
  plan.hbm_bytes += plan.kv_bytes;
  plan.cpu_share = placement.cpu_share;
  plan.on_cpu = placement.on_cpu;
  return plan;
}

}  // namespace strata::engine
