// Bytes of a placement, and whether budgets and pins allow it.
#include <algorithm>

#include "planner/placement/pins.h"
#include "planner/placement/step_time.h"

namespace strata::planner {

bool LayerPlacement::is_streaming(const PlacementProblem& problem) const {
  const auto is_apart = [](const LayerGroup& group) {
    return group.apart && group.apart->tier == PlanTier::kNvme;
  };
  return std::ranges::any_of(problem.groups, is_apart) ||
         std::ranges::any_of(groups, [](const GroupPlace& place) { return place.n_nvme > 0; });
}

bool LayerPlacement::is_passing(const PlacementProblem& problem) const {
  const auto is_apart = [](const LayerGroup& group) {
    return group.apart && group.apart->tier != PlanTier::kHbm;
  };
  return std::ranges::any_of(problem.groups, is_apart) ||
         std::ranges::any_of(
             groups, [](const GroupPlace& place) { return place.n_dram + place.n_nvme > 0; });
}

bool LayerPlacement::is_spilling(const PlacementProblem& problem) const {
  for (size_t g = 0; g < groups.size(); ++g)
    if (groups[g].kv_hbm + groups[g].kv_dram < problem.groups[g].n_held) return true;
  return false;
}

PlacedGb placed_gb(const PlacementProblem& problem, const LayerPlacement& placement) {
  PlacedGb gb;
  gb.dram_weights = problem.always_weights_gb;
  gb.hbm_weights = problem.has_device ? problem.hbm_always_gb : 0;
  for (size_t g = 0; g < placement.groups.size(); ++g) {
    const GroupPlace& place = placement.groups[g];
    const LayerGroup& group = problem.groups[g];
    const double kv = group.n_layers() * group.kv_gb;
    gb.hbm_weights += place.n_hbm * group.weight_gb;
    gb.hbm_kv += place.kv_hbm * kv;
    gb.dram_weights +=
        (place.n_dram + (placement.is_hbm_alone ? 0 : place.n_hbm)) * group.weight_gb;
    gb.dram_kv += (place.kv_hbm + place.kv_dram) * kv;
    gb.nvme_weights += place.n_nvme * group.weight_gb;
    if (!group.apart) continue;
    const double apart = group.n_layers() * group.apart->weight_gb;
    const PlanTier tier = group.apart->tier;
    if (tier == PlanTier::kHbm) gb.hbm_weights += apart;
    if (tier == PlanTier::kNvme) gb.nvme_weights += apart;
    if (tier == PlanTier::kDram || (tier == PlanTier::kHbm && !placement.is_hbm_alone))
      gb.dram_weights += apart;
  }
  const bool is_spilling = placement.is_spilling(problem);
  gb.kv_beside = is_spilling ? problem.spill_beside_gb : problem.kv_beside_gb;
  // What is in HBM alone is read for steps of the CPU.
  if (placement.is_hbm_alone || placement.is_streaming(problem))
    gb.dram_slots = problem.stream_slots_gb;
  gb.dram_buffers = problem.dram_fixed_gb + gb.kv_beside + gb.dram_slots;
  if (is_spilling) gb.nvme_file = problem.spill_file_gb;
  if (!problem.has_device) return gb;
  if (is_spilling) gb.hbm_chosen = std::max(0.0, problem.hbm_chosen_gb - gb.hbm_kv);
  gb.hbm_index = problem.hbm_index_gb;
  gb.hbm_buffers = problem.hbm_fixed_gb + gb.hbm_chosen +
                   (placement.is_passing(problem) ? problem.hbm_slots_gb : 0);
  return gb;
}

bool fits(const PlacementProblem& problem, const LayerPlacement& placement) {
  const PlacedGb gb = placed_gb(problem, placement);
  if (!is_as_pinned(problem, placement)) return false;
  if (gb.hbm() > problem.hbm_gb + kFitsSlack && problem.has_device) return false;
  if (gb.dram() + problem.index_gb > problem.dram_gb + kFitsSlack) return false;
  if (gb.dram_weights + gb.dram_slots > problem.weights_cap_gb + kFitsSlack) return false;
  if (gb.dram_kv + gb.kv_beside + problem.index_gb > problem.kv_cap_gb + kFitsSlack) return false;
  if (!placement.is_spilling(problem)) return true;
  double at_home = 0;
  for (size_t g = 0; g < placement.groups.size(); ++g) {
    const GroupPlace& place = placement.groups[g];
    const LayerGroup& group = problem.groups[g];
    if (!group.is_full() && place.kv_hbm + place.kv_dram < group.n_held) return false;
    if (group.is_full()) at_home += group.n_layers() * group.kv_gb * (place.kv_hbm + place.kv_dram);
  }
  return problem.may_spill && gb.nvme_file <= problem.nvme_gb + kFitsSlack &&
         at_home + kFitsSlack >= problem.spill_floor_gb;
}

}  // namespace strata::planner
