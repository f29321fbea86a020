// planner/placement/plan_change.h - a machine with more of something: what that would bring.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "planner/placement/placement_lp.h"
#include "planner/placement/problem.h"

namespace strata::planner {

/// What a plan can have more of: room of a tier, or a part that is quicker.
struct PlanResource {
  const char* name;  // "hbm", "dram", "nvme", "nvme_read", "link", "cpu", "dram_read", "gpu"
  bool is_room, is_of_device;
};
std::span<const PlanResource> plan_resources();

/// `amount`: GB more of a room, or how many times as quick a part is; > 0.
void change_resource(const PlanResource& resource, double amount, PlacementProblem& problem);

/// How many times as quick a part is in its dual.
inline constexpr double kDualTimes = 1.1;

/// What one more unit brings, the rest being planned anew: negative = quicker. Of the program's
/// optimum, not of the rounded placement, which moves in steps.
struct PlanDual {
  std::string resource;  // the resource's name
  std::string unit;      // "GiB", "10 %"
  double tpot_ms = 0, ttft_ms = 0;
};
/// Of every resource of the problem. Cost: a program each.
std::vector<PlanDual> duals_of(const PlacementProblem& problem, const LpWaits& waits);

}  // namespace strata::planner
