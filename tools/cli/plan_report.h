// tools/cli/plan_report.h - a plan as people and programs read it.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "base/error.h"
#include "planner/placement/placement.h"
#include "tools/cli/plan_request.h"

namespace strata::cli {

struct PlanAnswer {
  planner::PlacementProblem problem;  // the one that was chosen
  planner::PlacementPlan plan;
  double solve_ms = 0;
};

/// Tables, a bar for each tier and sentences; with `explain` also what each part does and what more
/// of it would bring.
std::string plan_text(const PlanSubject& subject, const PlanAnswer& answer, bool explain);
nlohmann::ordered_json plan_json(const PlanSubject& subject, const PlanAnswer& answer);

/// Why there is none: the smallest changes with which there would be one.
Error plan_refusal(const PlanSubject& subject);

}  // namespace strata::cli
