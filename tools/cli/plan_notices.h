// tools/cli/plan_notices.h - what a run says of where weights, K and V are, and of how long that
// took beside what was predicted.
#pragma once

#include <span>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "engine/generator.h"
#include "tools/cli/placed_plan.h"

namespace strata::cli {

/// "plan: 12 of 30 layers streamed, 41 % of K and V on disk (--dram 4 GiB); predicted 31 ms a
/// token, limited by NVMe". Empty where everything is as near as can be.
std::string plan_line(const PlacedPlan& plan, const engine::Engine& engine);
/// That line, and before it where rates that are kept are stale; with `verbose` also whose plan it
/// is, what it was priced with and what is at work.
void say_plan(const PlacedPlan& plan, const engine::Engine& engine, bool verbose);

/// Where rates were measured here and what a token attends is known: of the last 50 steps of one
/// token, which is what is predicted, whose median is by more than a fifth another time than
/// predicted there, both times and what to do. Empty where no 50 are; an answer is looked at in
/// fifties from its end.
std::string drift_line(const PlacedPlan& plan, std::span<const engine::LoneStep> steps);

/// The object `plan` of `run --json`: predictions beside what was measured.
nlohmann::ordered_json placed_json(const PlacedPlan& plan, const engine::Generation& answer);

}  // namespace strata::cli
