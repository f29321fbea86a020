// planner/placement/placement_moves.h - placements by counts of layers: where a search begins, and
// what it looks at next.
#pragma once

#include <cstdint>
#include <vector>

#include "planner/placement/placement_lp.h"
#include "planner/placement/step_time.h"

namespace strata::planner {

/// Of a group's layers, those whose weights in DRAM the CPU may compute with beside a device: of
/// what moves, or of a piece apart; and how many it does.
uint32_t most_on_cpu(const LayerGroup& group, const GroupPlace& place, bool is_apart);
uint32_t& on_cpu_of(GroupPlace& place, bool is_apart);

/// Shares as whole layers: what does not fill a layer of a nearer tier goes to the next one.
LayerPlacement rounded(const PlacementProblem& problem, const LpPlacement& program);

/// Every placement that differs by some layers of one group in another tier, by all groups' layers
/// at once, by who attends, or by who computes products.
std::vector<LayerPlacement> neighbours(const PlacementProblem& problem,
                                       const LayerPlacement& placement);

/// Everything as near as may be, and everything as far: where rounding leaves what does not fit,
/// moving begins at one that does. What a pin does not let there is in the nearest tier that it
/// does.
std::vector<LayerPlacement> extremes(const PlacementProblem& problem);

}  // namespace strata::planner
