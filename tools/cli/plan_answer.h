// tools/cli/plan_answer.h - the plan of a subject, and of machines or contexts that differ from it.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "planner/placement/placement.h"
#include "tools/cli/plan_request.h"

namespace strata::cli {

struct PlanAnswer {
  planner::PlacementProblem problem;  // the one that was chosen
  planner::PlacementPlan plan;
  double solve_ms = 0;

  double tokens_per_s() const { return 1e3 / plan.token.ms; }
  /// Whether the limits of --ttft-max and --tpot-max hold.
  bool is_in_time() const;
};

/// One change of `--what-if`: a room in bytes, or how many times as quick a part is.
struct PlanChange {
  const planner::PlanResource* resource;
  bool is_absolute = false;  // of a room: its size, not what is added
  double amount = 0;
};
/// "dram=+32GiB", "hbm=24GiB", "link=-20%". Errors: kUsage, naming `where`.
PlanChange read_plan_change(std::string_view text, const std::string& where);

/// Nothing where none fits. Cost: as planner::plan_placement.
std::optional<PlanAnswer> find_plan(const PlanSubject& subject,
                                    const engine::PlacementRequest& request, bool with_duals,
                                    std::span<const PlanChange> changes = {});

/// The longest context, in whole extents up to the subject's, that is answered at so many tokens
/// per second within all limits. Cost: a plan for each halving. Errors: kDoesNotFit, with the rate
/// of the shortest.
uint64_t longest_context(const PlanSubject& subject, double tokens_per_s);

/// The plan is late: which limit, the best that was found, and the smallest change of memory that
/// would do, with its command line. Cost: some twenty plans.
Error limit_refusal(const Command& command, const PlanSubject& subject, const PlanAnswer& late);

/// "strata run -m MODEL -c 4096": the verb with what the command has set of its options, but those
/// that are replaced; `instead` stands for them, or nothing.
std::string command_line(const Command& command, std::string_view verb, VerbSet verbs,
                         std::span<const std::string_view> replaced, const std::string& instead);

}  // namespace strata::cli
