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

#include "planner/placement/placement_lp.h"
#include "planner/placement/problem.h"
#include "planner/placement/step_time.h"

namespace strata::planner {

struct TierUse {
  double budget_gb = 0, weights_gb = 0, kv_gb = 0, index_gb = 0, buffers_gb = 0;
  double free_gb() const { return budget_gb - weights_gb - kv_gb - index_gb - buffers_gb; }
};

/// What one more unit brings, the rest being planned anew: negative = quicker. Of the program's
/// optimum, not of the rounded placement, which moves in steps.
struct PlanDual {
  std::string resource;  // "hbm", "dram", "nvme", "nvme_read", "link", "cpu", "dram_read", "gpu"
  std::string unit;      // "GiB", "10 %"
  double tpot_ms = 0, ttft_ms = 0;
};

/// What a problem without a placement lacks. `hbm_gb` must be raised to this; of `dram_gb` and
/// `nvme_gb` either, where both are there.
struct Shortage {
  std::optional<double> hbm_gb, dram_gb, nvme_gb;
};

struct PlacementPlan {
  size_t choice = 0;  // of the problems
  LayerPlacement layers;
  TierUse hbm, dram, nvme;  // nvme: weights are read from the model file and take no budget
  StepTime prompt, token;
  double lp_ttft_ms = 0, lp_tpot_ms = 0;  // of the program, which knows no layers
  std::vector<PlanDual> duals;
};

/// What is missing for any placement at all; nothing where there is one.
std::optional<Shortage> shortage(const PlacementProblem& problem);

/// The quickest placement over all problems, or nothing where none has one. Cost: some ten
/// milliseconds for each; duals as much again. Threads: concurrent calls are independent.
std::optional<PlacementPlan> plan_placement(std::span<const PlacementProblem> problems,
                                            bool with_duals = true);

/// Layers as counted, with as many blocks of K and V near as there is room for: what rounding and
/// moving try. Nothing where it does not fit.
std::optional<LayerPlacement> with_kv(const PlacementProblem& problem, LayerPlacement counted);

}  // namespace strata::planner
