#include "planner/placement/pins.h"

namespace strata::planner {

bool is_as_pinned(const PlacementProblem& problem, const LayerPlacement& placement) {
  for (size_t g = 0; g < placement.groups.size(); ++g) {
    const GroupPlace& place = placement.groups[g];
    const LayerGroup& group = problem.groups[g];
    if (group.apart && !problem.may_hold_weights(group.apart->tier)) return false;
    if (place.n_hbm > 0 && !problem.may_hold(group, PlanTier::kHbm)) return false;
    if (place.n_dram > 0 && !problem.may_hold(group, PlanTier::kDram)) return false;
    if (place.n_nvme > 0 && !problem.may_hold(group, PlanTier::kNvme)) return false;
    if (place.kv_hbm > 0 && !problem.may_hold_kv(group, PlanTier::kHbm)) return false;
    if (place.kv_dram > 0 && !problem.may_hold_kv(group, PlanTier::kDram)) return false;
  }
  const bool must_spill = problem.kv_pin == PlanTier::kNvme;
  return !problem.kv_pin || placement.is_spilling(problem) == must_spill;
}

double lateness(const PlacementProblem& problem, double ttft_ms, double tpot_ms) {
  const auto beyond = [](double ms, double most) {
    constexpr double kNothing = 1e-9;  // the solver's own slack
    return most > 0 && ms > most * (1 + kNothing) ? ms / most - 1 : 0;
  };
  return beyond(ttft_ms, problem.ttft_max_ms) + beyond(tpot_ms, problem.tpot_max_ms);
}

}  // namespace strata::planner
