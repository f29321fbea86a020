// tools/cli/placed_plan.h - where an open engine has weights, K and V, by the planner where that
// is quicker than the rules by hand, and what steps should take there.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "planner/placement/placement.h"
#include "tools/cli/plan_request.h"

namespace strata::cli {

enum class PlacedBy : uint8_t { kRules, kPlanner, kFile };
const char* placed_by_name(PlacedBy who);  // "rules", "planner", "file"

/// A decoded token behind n_positions (of which it attends what is chosen), at that pace.
planner::StepTime token_behind(const planner::PlacementProblem& problem,
                               const planner::LayerPlacement& layers, double n_positions,
                               const planner::MachinePace& pace);

/// An engine's placement, priced. The engine's file outlives it.
struct PlacedPlan {
  PlanSubject subject;
  planner::PlacementProblem problem;  // with the chunk and the codecs that run
  planner::LayerPlacement layers;     // what is reserved
  double solve_ms = 0;                // 0 = the planner was not asked
  PlacedBy placed_by = PlacedBy::kRules;

  bool is_measured() const { return subject.request.profile.is_measured(); }
  planner::StepTime token_at(double n_positions, const planner::MachinePace& pace = {}) const {
    return token_behind(problem, layers, n_positions, pace);
  }
  /// Tokens of a prompt behind n_depth others, until the first one of the answer.
  planner::StepTime prompt_behind(double n_depth, double n_tokens,
                                  const planner::MachinePace& pace = {}) const;
  /// By how many ms a token there takes longer where the disk has that share of its rate left, as
  /// the dual of its rate says, all being placed anew. Cost: some programs.
  double slower_disk_ms(double n_positions, double share, const planner::MachinePace& pace) const;
};

/// Of what the engine has decided: after Engine::open, before or after it was loaded. Cost:
/// milliseconds. Errors: none of its own; a profile that cannot be used is as good as none.
PlacedPlan placed_plan(const Command& command, const engine::Engine& engine);

/// Which of --plan, --pin, --n-gpu-layers and --kv-tier say where something is to be, by name.
std::vector<std::string> stated_places(const Settings& settings);

/// A placement of a plan as the engine wants it: layers, and to K and V what these leave.
engine::Placement placement_of(const PlanSubject& subject, const planner::PlacementProblem& problem,
                               const planner::LayerPlacement& layers);

/// The engine, open and placed: as --plan says, else as place_by_plan() does. Errors: those of
/// Engine::open and read_plan_file; kUsage where the plan is of another model or device, or an
/// option contradicts it.
struct PlacedEngine {
  engine::Engine engine;
  PlacedPlan plan;
};
PlacedEngine open_placed(const Command& command, engine::EngineOptions options);

/// Writes a plan of `strata plan`. Errors: kIo.
void save_plan(const PlanSubject& subject, const planner::PlacementProblem& problem,
               const planner::PlacementPlan& plan, const std::string& path);

/// Tokens behind positions that are there already.
struct AnswerBehind {
  uint64_t n_past = 0, n_out = 1;
};

/// Asks the planner where not everything is as near as can be, and places by it what is quicker so;
/// before Engine::load. What the rules by hand have accepted runs where a plan does not fit, but
/// for pins, which are refused then. Cost: some ten milliseconds for each size of chunk. Errors:
/// kDoesNotFit of pins; those of tiers::open_spill, after which the engine has no spill file.
/// With `answer` just those tokens are to be quick, else a prompt and an answer of the context.
PlacedPlan place_by_plan(const Command& command, engine::Engine& engine,
                         std::optional<AnswerBehind> answer = {});

}  // namespace strata::cli
