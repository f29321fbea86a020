// tools/cli/plan_bar.h - what a tier holds as a bar of characters.
#pragma once

#include <cstdint>
#include <string>

#include "planner/placement/placement.h"

namespace strata::cli {

/// How a plan is shown.
struct PlanLook {
  uint32_t n_columns = 80;
  bool has_blocks = false;  // block characters, else letters
  bool explains = false;
};

/// Block characters and the window's width on a terminal whose locale is UTF-8, else letters and 80
/// columns: what a file or a pipe gets does not depend on where it was made.
PlanLook terminal_look(int descriptor, bool is_utf8);

/// Each part's length is its share, rounded from where the one before it ends.
std::string tier_bar(const planner::TierUse& use, const PlanLook& look);
std::string bar_legend(const PlanLook& look);

}  // namespace strata::cli
