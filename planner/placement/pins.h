// planner/placement/pins.h - what the user wants of a placement beside its being quick: where
// something is to live, and how long something may take.
#pragma once

#include "planner/placement/step_time.h"

namespace strata::planner {

/// Whether nothing is where a pin of the problem does not want it.
bool is_as_pinned(const PlacementProblem& problem, const LayerPlacement& placement);

/// By how much both exceed the limits of the problem, as shares of these, added up; 0 = they hold.
double lateness(const PlacementProblem& problem, double ttft_ms, double tpot_ms);

}  // namespace strata::planner
