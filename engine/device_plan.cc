#include "engine/device_plan.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "base/even_spread.h"
#include "engine/byte_text.h"

namespace strata::engine {
namespace {

/// The layers that stay where n_streamed do not. These are spread evenly, so that one is on its way
/// while those between compute.
std::vector<PieceSet> spread(uint32_t n_layers, uint32_t n_streamed) {
  std::vector<PieceSet> resident(n_layers, kWholeLayer);
  for (uint64_t i = 0; i < n_streamed; ++i) resident[i * n_layers / n_streamed] = kNoPiece;
  return resident;
}

}  // namespace

uint64_t device_aligned(uint64_t bytes) { return round_up(bytes, uint64_t{256}); }

uint64_t DeviceNeeds::bytes_of(size_t layer, PieceSet pieces) const {
  if (pieces.is_whole()) return layer_bytes[layer];
  if (!pieces.is_any()) return 0;
  STRATA_CHECK(layer < piece_bytes.size(), "pieces of layer %zu of %zu", layer, piece_bytes.size());
  return piece_bytes[layer][static_cast<size_t>(pieces.attention ? LayerPiece::kAttention
                                                                 : LayerPiece::kFfn)];
}

uint64_t DevicePlan::n_streamed() const {
  return resident.size() - static_cast<uint64_t>(std::ranges::count(resident, kWholeLayer));
}

uint64_t DevicePlan::n_in_part() const {
  return n_streamed() - static_cast<uint64_t>(std::ranges::count(resident, kNoPiece));
}

uint64_t DevicePlan::n_on_cpu() const {
  return static_cast<uint64_t>(std::ranges::count_if(on_cpu, &PieceSet::is_any));
}

std::vector<PieceSet> share_products(const std::vector<PieceSet>& resident, double share) {
  const uint64_t n =
      resident.size() - static_cast<uint64_t>(std::ranges::count(resident, kWholeLayer));
  const auto n_on_cpu = static_cast<uint64_t>(std::llround(share * static_cast<double>(n)));
  std::vector<PieceSet> on_cpu;
  if (n_on_cpu == 0) return on_cpu;
  uint64_t passing = 0;  // before the layer
  for (const PieceSet& stays : resident) {
    const bool is_its = !stays.is_whole() && is_spread_to(passing, n_on_cpu, n);
    on_cpu.push_back(is_its ? other_pieces(stays) : kNoPiece);
    passing += stays.is_whole() ? 0u : 1u;
  }
  return on_cpu;
}

uint64_t usable_device_bytes(uint64_t free_bytes) {
  return free_bytes - std::min(free_bytes, std::max(free_bytes / 32, uint64_t{256} << 20));
}

DevicePlan device_plan_of(const DeviceNeeds& needs, std::vector<PieceSet> resident) {
  DevicePlan plan;
  plan.resident = std::move(resident);
  plan.weight_bytes = needs.head_bytes;
  uint64_t largest = 0;
  for (size_t layer = 0; layer < needs.layer_bytes.size(); ++layer) {
    const PieceSet stays = plan.resident[layer];
    largest = std::max(largest, device_aligned(needs.bytes_of(layer, other_pieces(stays))));
    plan.weight_bytes += device_aligned(needs.bytes_of(layer, stays));
  }
  plan.slot_bytes = largest;
  plan.hbm_bytes = needs.buffer_bytes + plan.weight_bytes + 2 * plan.slot_bytes;
  return plan;
}

namespace {

/// Rows of the index, or none, in what weights and buffers leave.
uint64_t index_bytes_in(const DeviceNeeds& needs, uint64_t room) {
  const uint64_t first = std::max(needs.kv_bytes_min, needs.kv_bytes_chosen);
  if (needs.index_bytes > room || first > room - needs.index_bytes) return 0;
  // Of smaller ones all have room where the rows have.
  const bool is_smaller = needs.kv_bytes < needs.index_bytes;
  return is_smaller && needs.kv_bytes > room - needs.index_bytes ? 0 : needs.index_bytes;
}

}  // namespace

DevicePlan plan_device(const DeviceNeeds& needs, uint64_t hbm_bytes, uint64_t n_streamed_min) {
  const auto n_layers = static_cast<uint32_t>(needs.layer_bytes.size());
  DevicePlan plan;
  STRATA_CHECK(n_streamed_min <= n_layers, "%lu of %u layers",
               static_cast<unsigned long>(n_streamed_min), n_layers);
  for (auto n_streamed = static_cast<uint32_t>(n_streamed_min); n_streamed <= n_layers;
       ++n_streamed) {
    plan = device_plan_of(needs, spread(n_layers, n_streamed));
    if (plan.hbm_bytes + needs.kv_bytes_min <= hbm_bytes) break;
  }
  const uint64_t least = plan.hbm_bytes + needs.kv_bytes_min;
  if (least > hbm_bytes)
    throw Error(ErrorCode::kDoesNotFit,
                "a step needs " + bytes_text(least) + " of the device's memory, and " +
                    bytes_text(hbm_bytes) + " are there for it",
                "--hbm",
                "raise --hbm to " + size_argument(least) + ", use a smaller -b or -c" +
                    (needs.kv_bytes_min > 0 ? ", a smaller --kv-budget" : "") +
                    ", or --device none");
  plan.index_bytes = index_bytes_in(needs, hbm_bytes - plan.hbm_bytes);
  const uint64_t room = hbm_bytes - plan.hbm_bytes - plan.index_bytes;
  plan.kv_bytes = std::min(room, needs.kv_bytes) / needs.block_bytes * needs.block_bytes;
  plan.hbm_bytes += plan.index_bytes + plan.kv_bytes;
  return plan;
}

}  // namespace strata::engine
