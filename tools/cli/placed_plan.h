// tools/cli/placed_plan.h - where an open engine has its weights, K and V, by the planner where that
// is quicker than the rules by hand, and what steps should take there.
#pragma once

#include <cstdint>

#include "engine/engine.h"
#include "planner/placement/placement.h"
#include "tools/cli/plan_request.h"

namespace strata::cli {

/// An engine's placement, priced. The engine's file outlives it.
struct PlacedPlan {
  PlanSubject subject;
  planner::PlacementProblem problem;  // with the chunk and the codecs that run
  planner::LayerPlacement layers;     // what is reserved
  double solve_ms = 0;                // 0 = the planner was not asked

  bool is_measured() const { return subject.request.profile.is_measured(); }
  /// A decoded token that attends n_positions (or of them what is chosen).
  planner::StepTime token_at(uint64_t n_positions) const;
  /// Tokens that are read behind n_depth others.
  double prompt_ms(uint64_t n_tokens, uint64_t n_depth) const;
};

/// Of what the engine has decided: after Engine::open, before or after it was loaded. Cost:
/// milliseconds. Errors: none of its own; a profile that cannot be used is as good as none.
PlacedPlan placed_plan(const Command& command, const engine::Engine& engine);

/// Asks the planner where not everything is as near as can be, and places by it what is quicker so;
/// before Engine::load. What the rules by hand have accepted runs in any case. Cost: some ten
/// milliseconds for each size of chunk. Errors: those of tiers::open_spill.
PlacedPlan place_by_plan(const Command& command, engine::Engine& engine);

}  // namespace strata::cli
