// tools/cli/plan_trials.h - plans of one model at one depth within one budget, each run by an
// engine, its time a token beside the planner's: how far predictions are off, whether they put
// plans into the right order, what following the planner costs against the best, and whether a
// slower disk costs what the plan's dual says.
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
#include "tools/cli/plan_run.h"
#include "tools/cli/sample_statistics.h"

namespace strata::cli {

struct PlanTrialOptions {
  uint32_t n_plans = 30;   // of each depth and budget, the planner's own among them
  TokenTiming timing;      // of each measurement
  uint32_t n_pairs = 7;    // in turns, of the planner's own and another
  uint32_t n_rounds = 3;   // in which all plans are measured, one after another
  uint32_t n_repeats = 4;  // plans that are measured again at every round's end
  uint64_t seed = 1;
  const std::atomic<bool>* cancel = nullptr;
  std::function<void(const std::string&)> on_note = [](const std::string&) {};
};

struct PlanTrial {
  std::string name;  // "planner", "K and V on disk", "random 3"
  engine::Placement placement;
  uint32_t n_streamed = 0;
  // Medians of the rounds, each predicted for what memory and disk gave then: a disk that others
  // share is slow for seconds, and no prediction is of that.
  double predicted_ms = 0, measured_ms = 0;
  // Predicted for the median pace of all measurements of the cell, as a planner compares plans: a
  // probe beside each plan is off by some percent, which is more than many plans differ by.
  double ranked_ms = 0;
  uint64_t predicted_bytes = 0, measured_bytes = 0;  // the peak of DRAM, the highest of the rounds
  double error() const;  // of the prediction, as a share of what was measured
};

/// What a slower disk costs a token of the planner's own plan, in ms.
struct DiskTrial {
  double rate = 0;         // that the disk was held at, bytes per second
  double share = 0;        // of it that was left then; 0 = not tried
  double measured_ms = 0;  // in turns with all of that rate, the median
  double plan_ms = 0;      // by the plan's clocks
  double dual_ms = 0;      // by the dual of the disk's rate
};

/// One depth and one budget of DRAM.
struct CellResult {
  PlanCell cell;
  std::vector<PlanTrial> trials;  // the planner's own first
  // What a plan that is measured twice differs from itself by at most, as a share, and the order of
  // plans that differ by more, ranked against measured: among the others it is noise.
  double spread = 0;
  OrderCounts clear_order;
  double order_tau = 0;      // Kendall's, of all of them
  double regret = 0;         // the planner's own against the best measured
  double paired_regret = 0;  // again in turns with the best other, the median; 0 = none
  DiskTrial slower_disk;
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
  OrderCounts clear_order;
  double regret_max = 0;       // paired where there were pairs
  double bytes_ratio_max = 0;  // measured peak against predicted
};
TrialSummary summary_of(const std::vector<CellResult>& cells);

std::string trials_text(const CellResult& cell);
std::string summary_text(const TrialSummary& summary);
nlohmann::ordered_json trials_json(const std::vector<CellResult>& cells);

}  // namespace strata::cli
