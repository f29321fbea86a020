// tools/cli/plan_report.h - a plan as people and programs read it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/error.h"
#include "tools/cli/plan_answer.h"
#include "tools/cli/plan_bar.h"

namespace strata::cli {

/// Tables, a bar for each tier and sentences; where the look explains also what each part does and
/// what more of it would bring.
std::string plan_text(const PlanSubject& subject, const PlanAnswer& answer, const PlanLook& look);
nlohmann::ordered_json plan_json(const PlanSubject& subject, const PlanAnswer& answer);

/// A machine that differs beside the present one; nothing = there is no plan for it.
std::string what_if_text(const std::string& changes, const PlanAnswer& now,
                         const std::optional<PlanAnswer>& then);
nlohmann::ordered_json what_if_json(const PlanAnswer& now, const std::optional<PlanAnswer>& then);

/// Why there is none: the smallest changes with which there would be one, the first of them with
/// its command line where the command of `strata plan` is given.
Error plan_refusal(const PlanSubject& subject, const Command* command = nullptr);

}  // namespace strata::cli
