// tools/cli/eval_page.h - results of `eval` as one HTML page that needs nothing beside it: plots of
// quality against the share of K and V read, a curve per method, and the tables.
#pragma once

#include <span>
#include <string>

#include "tools/eval/eval_row.h"

namespace strata::cli {

/// What stands above the plots.
struct EvalSubject {
  std::string model, device, version;
};

/// Light or dark as the reader's system is.
std::string eval_page(const EvalSubject& subject, std::span<const eval::EvalRow> rows);

}  // namespace strata::cli
