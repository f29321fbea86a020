// planner/placement/placement.h - where weights, K and V of a request live, what that will take,
// what limits it, and what would change it: the planner's answer.
//
// How: the linear program gives shares; they are rounded to layers and blocks; the rounded
// placement is evaluated layer by layer (step_time.h) and moved as long as that makes it quicker.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "planner/placement/placed_layers.h"
#include "planner/placement/placement_lp.h"
#include "planner/placement/plan_change.h"
#include "planner/placement/problem.h"
#include "planner/placement/step_time.h"

namespace strata::planner {

struct TierUse {
  double budget_gb = 0, weights_gb = 0, kv_gb = 0, index_gb = 0, buffers_gb = 0;
  double free_gb() const { return budget_gb - weights_gb - kv_gb - index_gb - buffers_gb; }
};

/// What a problem without a placement lacks. `hbm_gb` and the caps must be raised to this; of
/// `dram_gb` and `nvme_gb` either, where both are there, but of K and V pinned to disk both.
struct Shortage {
  std::optional<double> hbm_gb, dram_gb, nvme_gb;
  std::optional<double> weights_cap_gb, kv_cap_gb;
  bool is_any() const { return hbm_gb || dram_gb || nvme_gb || weights_cap_gb || kv_cap_gb; }
};

struct PlacementPlan {
  size_t choice = 0;  // of the problems
  LayerPlacement layers;
  TierUse hbm, dram, nvme;  // nvme: weights are read from the model file and take no budget
  StepTime prompt, token;
  double lp_ttft_ms = 0, lp_tpot_ms = 0;  // of the program, which knows no layers
  std::vector<PlanDual> duals;
  uint32_t n_programs = 0, n_iterations = 0;  // of all problems, without those of duals
  uint32_t n_tried = 0;                       // placements that were looked at, of all problems
};

/// What is missing for any placement at all; nothing where there is one.
std::optional<Shortage> shortage(const PlacementProblem& problem);

/// The quickest placement over all problems of those within their limits, else the one nearest to
/// them (lateness() of its times tells); nothing where none fits. Cost: some ten milliseconds for
/// each problem, at most three programs of each; duals as much again. Threads: concurrent calls are
/// independent.
std::optional<PlacementPlan> plan_placement(std::span<const PlacementProblem> problems,
                                            bool with_duals = true);

/// How much the placement's layers wait for what comes ahead, where that matters.
LpWaits waits_of(const PlacementProblem& problem, const LayerPlacement& placement);

/// Layers as counted, with as many blocks of K and V near as there is room for: what rounding and
/// moving try. Nothing where it does not fit.
std::optional<LayerPlacement> with_kv(const PlacementProblem& problem, LayerPlacement counted);

}  // namespace strata::planner
