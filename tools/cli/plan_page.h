// tools/cli/plan_page.h - a plan as one HTML page that needs nothing beside it: which layer lives
// in which tier, what tiers hold, what each part does during a token, what more of it would bring.
#pragma once

#include <string>

#include "tools/cli/plan_answer.h"

namespace strata::cli {

std::string plan_page(const PlanSubject& subject, const PlanAnswer& answer,
                      const std::string& version);

}  // namespace strata::cli
