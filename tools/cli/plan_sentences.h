// tools/cli/plan_sentences.h - why what lives where, and what would make it quicker, for readers of
// a page.
#pragma once

#include <string>
#include <vector>

#include "tools/cli/placed_plan.h"

namespace strata::cli {

/// What is where and by whose word, how long a token takes and what of, what the times are priced
/// with; where not everything is near, also what more memory or a quicker part would bring. Cost:
/// where not everything is near, that of a plan with its duals, some hundred milliseconds; else
/// nothing is solved.
std::vector<std::string> plan_sentences(const PlacedPlan& plan, const engine::Engine& engine);

}  // namespace strata::cli
