// tests/planner/every_placement.h - all placements of two groups of few layers: what a plan is
// measured against.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "planner/placement/placement.h"

namespace strata::planner::testing {

/// Every number of layers of a group in each tier, and of those in DRAM that the CPU computes.
inline std::vector<GroupPlace> places_of(const PlacementProblem& problem, const LayerGroup& group) {
  std::vector<GroupPlace> places;
  const auto n = static_cast<uint32_t>(group.layers.size());
  for (uint32_t n_hbm = 0; n_hbm <= (problem.has_device ? n : 0); ++n_hbm)
    for (uint32_t n_dram = 0; n_dram + n_hbm <= n; ++n_dram)
      for (uint32_t n_on_cpu = 0; n_on_cpu <= (problem.may_compute_products() ? n_dram : 0);
           ++n_on_cpu)
        places.push_back(
            {.n_hbm = n_hbm, .n_dram = n_dram, .n_nvme = n - n_hbm - n_dram, .n_on_cpu = n_on_cpu});
  return places;
}

/// Calls `each` with all layers' places, all that may attend, and shares of the K and V that fit.
template <class Each>
void every_placement(const PlacementProblem& problem, const Each& each) {
  for (const GroupPlace& first : places_of(problem, problem.groups[0]))
    for (const GroupPlace& second : places_of(problem, problem.groups[1]))
      for (const CpuPart part : {CpuPart::kNone, CpuPart::kBalanced, CpuPart::kAll}) {
        const LayerPlacement counted{{first, second}, part};
        const auto placement = with_kv(problem, counted);
        if (!placement) continue;
        for (const double kept : {1.0, 0.75, 0.5, 0.0}) {
          LayerPlacement fewer = *placement;
          for (GroupPlace& place : fewer.groups) {
            const double moved = std::floor(place.kv_hbm * (1 - kept) / 32) * 32;
            place.kv_hbm -= moved;
            place.kv_dram += moved;
          }
          if (fits(problem, fewer)) each(fewer);
        }
      }
}

/// The best time of all; infinity where none fits.
inline double best_of_all(const PlacementProblem& problem) {
  double best = INFINITY;
  every_placement(problem, [&](const LayerPlacement& placement) {
    best = std::min(best, request_ms(problem, placement));
  });
  return best;
}

}  // namespace strata::planner::testing
