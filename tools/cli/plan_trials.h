// tools/cli/plan_trials.h - plans of one model at one depth within one budget, each run by an
// engine, its time a token beside the planner's: how far predictions are off, whether they put
// plans into the right order, what following the planner costs against the best.
// Why random plans: a planner that errs alike everywhere may still choose well, and one that is
// right where it is asked may be wrong where it would have had to look.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engine/placement.h"
#include "tools/cli/command_line.h"

namespace strata::cli {

struct PlanTrialOptions {
  uint32_t n_plans = 30;  // of each depth and budget, the planner's own among them
  uint32_t n_tokens = 6;  // that a measurement is the median of
  uint32_t n_pairs = 7;   // in turns, of the planner's own and the best other
  uint64_t seed = 1;
  const std::atomic<bool>* cancel = nullptr;
  std::function<void(const std::string&)> on_note = [](const std::string&) {};
};

/// One depth and one budget of DRAM.
struct PlanCell {
  uint32_t n_depth = 0;
  uint64_t dram_bytes = 0;
};

struct PlanTrial {
  std::string name;  // "planner", "K and V on disk", "random 3"
  engine::Placement placement;
  uint32_t n_streamed = 0;
  double predicted_ms = 0, measured_ms = 0;
  uint64_t predicted_bytes = 0, measured_bytes = 0;  // the peak of DRAM
  double error() const;  // of the prediction, as a share of what was measured
};

struct CellResult {
  PlanCell cell;
  std::vector<PlanTrial> trials;  // the planner's own first
  double order_tau = 0;           // Kendall's, of predicted against measured
  double regret = 0;              // the planner's own against the best measured
  double paired_regret = 0;       // again in turns with the best other, the median; 0 = none
};

/// Budgets between the least that runs at a depth and what holds everything: a tenth, four and
/// eight tenths of the way. Errors: those of Engine::open.
std::vector<uint64_t> trial_budgets(const Command& command, uint32_t n_depth,
                                    const PlanTrialOptions& options);

/// Errors: those of Engine::open and of the steps; kCancelled. Memory: the budget, twice while two
/// plans take turns.
CellResult try_plans(const Command& command, const PlanCell& cell, const PlanTrialOptions& options);

/// Over all plans of all cells.
struct TrialSummary {
  uint64_t n_plans = 0;
  double error_median = 0, error_p95 = 0;
  double tau_mean = 0;
  double regret_max = 0;       // paired where there were pairs
  double bytes_ratio_max = 0;  // measured peak against predicted
};
TrialSummary summary_of(const std::vector<CellResult>& cells);

std::string trials_text(const CellResult& cell);
std::string summary_text(const TrialSummary& summary);
nlohmann::ordered_json trials_json(const std::vector<CellResult>& cells);

}  // namespace strata::cli
