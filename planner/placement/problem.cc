#include "planner/placement/problem.h"

#include <algorithm>
#include <cmath>

namespace strata::planner {
namespace {
constexpr double kNever = 1e12;  // ms: what a missing part would take
}

TierSet just(PlanTier tier) {
  return {tier == PlanTier::kHbm, tier == PlanTier::kDram, tier == PlanTier::kNvme};
}

std::optional<PlanTier> only_tier(const TierSet& tiers) {
  if (tiers.hbm + tiers.dram + tiers.nvme != 1) return std::nullopt;
  return tiers.hbm ? PlanTier::kHbm : tiers.dram ? PlanTier::kDram : PlanTier::kNvme;
}

double PlacementProblem::share_touched() const {
  return std::min(touched_share, touched_positions / n_decode_positions());
}

double PlacementProblem::index_scan_ms() const {
  if (card_searches()) return transfer_ms(index_scan_gb(), rates.hbm_attend);
  return std::max(index_position_ms * n_decode_positions(),
                  transfer_ms(index_scan_gb(), rates.dram_read));
}

double PlacementProblem::index_link_ms() const {
  if (!card_searches()) return 0;
  return transfer_ms(index_position_link_gb * n_decode_positions(), rates.link_out);
}

double PlacementProblem::choosing_link_ms(const LayerGroup& group) const {
  return has_device && group.is_full() && index_position_gb > 0 ? rates.round_trip_ms : 0;
}

double PlacementProblem::cpu_products_ms(const LayerGroup& group, double gb) const {
  return group.cpu_linear_ms * gb / group.layer_gb();
}

double PlacementProblem::cpu_products_link_ms(PieceSet pieces) const {
  const double n_waits = (pieces.attention ? 2 : 0) + (pieces.ffn ? 1 : 0);
  return n_waits * rates.shared_layer_ms();
}

PieceSet LayerGroup::moving() const {
  PieceSet pieces;
  for (const LayerPiece piece : kEachPiece)
    if (!apart || piece != apart->piece) pieces.add(piece);
  return pieces;
}

double PlacementProblem::weights_gb() const {
  double gb = 0;
  for (const LayerGroup& group : groups) gb += group.n_layers() * group.layer_gb();
  return gb;
}

double PlacementProblem::kv_gb() const {
  double gb = 0;
  for (const LayerGroup& group : groups) gb += group.n_layers() * group.n_held * group.kv_gb;
  return gb;
}

double PlacementProblem::full_kv_gb() const {
  double gb = 0;
  for (const LayerGroup& group : groups)
    if (group.is_full()) gb += group.n_layers() * group.n_held * group.kv_gb;
  return gb;
}

const char* plan_tier_name(PlanTier tier) {
  return tier == PlanTier::kHbm ? "hbm" : tier == PlanTier::kDram ? "dram" : "nvme";
}

bool PlacementProblem::may_hold_weights(PlanTier tier) const {
  return tier == PlanTier::kHbm ? has_device : tier == PlanTier::kDram || may_stream;
}

bool PlacementProblem::may_hold(const LayerGroup& group, PlanTier tier) const {
  return group.pin.has(tier) && may_hold_weights(tier);
}

bool PlacementProblem::may_hold_kv(const LayerGroup& group, PlanTier tier) const {
  switch (tier) {
    case PlanTier::kHbm:
      return has_device && kv_pin.value_or(tier) == tier;
    case PlanTier::kDram:
      return kv_pin != PlanTier::kHbm;
    case PlanTier::kNvme:
      return may_spill && group.is_full() && kv_pin.value_or(tier) == tier;
  }
  return false;
}

PlacementProblem at_pace(PlacementProblem problem, const MachinePace& pace) {
  PlanRates& rates = problem.rates;
  const auto paced = [&, bound = kDramBound * rates.dram_read](double rate) {
    if (!(bound > 0)) return rate;
    return rate >= bound ? rate * pace.dram : std::min(rate, bound * pace.dram);
  };
  double before_ms = 0, now_ms = 0;
  for (LayerGroup& group : problem.groups) {
    const double before = group.cpu_linear_ms;
    if (!(before > 0) || !(group.layer_gb() > 0)) continue;
    group.cpu_linear_ms = transfer_ms(group.layer_gb(), paced(group.layer_gb() / before * 1e3));
    before_ms += group.n_layers() * before;
    now_ms += group.n_layers() * group.cpu_linear_ms;
  }
  if (!problem.has_device && before_ms > 0) problem.head_ms *= now_ms / before_ms;
  rates.cpu_attend = paced(rates.cpu_attend);
  rates.dram_read *= pace.dram;
  for (double* rate : {&rates.nvme_read, &rates.nvme_blocks, &rates.nvme_write}) *rate *= pace.disk;
  return problem;
}

std::vector<ChunkSample> chunk_samples(const PlacementProblem& problem) {
  const double rows = problem.chunk_rows;
  const auto n_chunks = static_cast<uint64_t>(std::ceil(problem.n_prompt / rows));
  const auto rows_at = [&](double first) { return std::min(rows, problem.n_prompt - first); };
  std::vector<ChunkSample> samples;
  if (n_chunks <= kChunkSamples) {
    for (uint64_t i = 0; i < n_chunks; ++i) {
      const double first = static_cast<double>(i) * rows;
      samples.push_back({problem.n_past + first, rows_at(first), 1});
    }
    return samples;
  }
  // The last chunk, which may have few rows, stands for itself; those before it are whole.
  const uint64_t n_whole = n_chunks - 1;
  constexpr uint32_t kWholeSamples = kChunkSamples - 1;
  double total = 0;
  for (uint32_t i = 0; i < kWholeSamples; ++i) {
    const double chunk = std::round(static_cast<double>(n_whole - 1) * i / (kWholeSamples - 1));
    const double weight = i == 0 || i + 1 == kWholeSamples ? 0.5 : 1;
    total += weight;
    samples.push_back({problem.n_past + chunk * rows, rows, weight});
  }
  for (ChunkSample& sample : samples) sample.weight *= static_cast<double>(n_whole) / total;
  const double last = static_cast<double>(n_whole) * rows;
  samples.push_back({problem.n_past + last, rows_at(last), 1});
  return samples;
}

double transfer_ms(double gb, double gb_per_s) {
  if (gb <= 0) return 0;
  return gb_per_s > 0 ? gb / gb_per_s * 1e3 : kNever;
}

}  // namespace strata::planner
