// tools/cli/plan_trials_report.cc - trials of plans as a table and as JSON.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "engine/byte_text.h"
#include "tools/cli/plan_trials.h"

namespace strata::cli {
namespace {

using engine::bytes_text;
using nlohmann::ordered_json;

std::string kv_text(const engine::Placement& placement) {
  return placement.is_spilling() ? bytes_text(placement.kv_dram_bytes) : "all";
}

std::string slower_disk_text(const DiskTrial& disk) {
  if (disk.share == 0) return "";
  const std::string text = fmt::format(
      "its disk held at {:.0f} MB/s and, in turns, at {:.0f} % of that: a token takes {:+.2f} ms; "
      "the plan says {:+.2f} ms, the dual of the disk's rate {:+.2f} ms",
      disk.rate / 1e6, 100 * disk.share, disk.measured_ms, disk.plan_ms, disk.dual_ms);
  if (!(disk.dual_ms > 0)) return text + "\n";  // the disk hides behind something else
  return text + fmt::format(" ({:.0f} % of it)\n", 100 * disk.measured_ms / disk.dual_ms);
}

}  // namespace

std::string trials_text(const CellResult& cell) {
  constexpr const char* kRow =
      "| {:<16} | {:>8} | {:>10} | {:>12} | {:>11} | {:>7} | {:>10} | {:>10} |\n";
  std::string out =
      fmt::format("\ndepth {}, --dram {}\n", cell.cell.n_depth, bytes_text(cell.cell.dram_bytes));
  out += fmt::format(kRow, "plan", "streamed", "K and V", "predicted ms", "measured ms", "off",
                     "peak", "measured");
  out += fmt::format(
      "| {:-<16} | {:->7}: | {:->9}: | {:->11}: | {:->10}: | {:->6}: | {:->9}: | {:->9}: |\n", "",
      "", "", "", "", "", "", "");
  for (const PlanTrial& trial : cell.trials)
    out += fmt::format(kRow, trial.name, trial.n_streamed, kv_text(trial.placement),
                       fmt::format("{:.2f}", trial.predicted_ms),
                       fmt::format("{:.2f}", trial.measured_ms),
                       fmt::format("{:+.0f} %", 100 * (trial.predicted_ms / trial.measured_ms - 1)),
                       bytes_text(trial.predicted_bytes), bytes_text(trial.measured_bytes));
  out += fmt::format(
      "order at the table's median pace: tau {:.2f} of {:.0f} pairs that differ by more than "
      "{:.1f} % (what a plan opened again differs by), {:.2f} of all; the planner's own takes "
      "{:.3f} of the best",
      cell.clear_order.tau(), cell.clear_order.n_b, 100 * cell.spread, cell.order_tau, cell.regret);
  if (cell.paired_regret > 0)
    out += fmt::format(", {:.3f} of the best other in turns", cell.paired_regret);
  return out + "\n" + slower_disk_text(cell.slower_disk);
}

std::string summary_text(const TrialSummary& summary) {
  return fmt::format(
      "\n{} plans: predictions are off by {:.1f} % in the median, {:.1f} % at the 95th percentile; "
      "order tau {:.2f} of {:.0f} pairs that differ by more than a plan opened again does, {:.2f} "
      "of all in the mean of the tables; regret at most {:.3f}; peak of memory at most {:.3f} of "
      "the prediction\n",
      summary.n_plans, 100 * summary.error_median, 100 * summary.error_p95,
      summary.clear_order.tau(), summary.clear_order.n_b, summary.tau_mean, summary.regret_max,
      summary.bytes_ratio_max);
}

ordered_json trials_json(const std::vector<CellResult>& cells) {
  auto list = ordered_json::array();
  for (const CellResult& cell : cells) {
    auto plans = ordered_json::array();
    for (const PlanTrial& trial : cell.trials)
      plans.push_back({{"plan", trial.name},
                       {"streamed_layers", trial.n_streamed},
                       {"kv_dram_bytes", trial.placement.kv_dram_bytes},
                       {"predicted_ms", trial.predicted_ms},
                       {"measured_ms", trial.measured_ms},
                       {"ranked_ms", trial.ranked_ms},
                       {"predicted_peak_bytes", trial.predicted_bytes},
                       {"measured_peak_bytes", trial.measured_bytes}});
    ordered_json of = {{"n_depth", cell.cell.n_depth},
                       {"dram_bytes", cell.cell.dram_bytes},
                       {"tau", cell.order_tau},
                       {"repeat_spread", cell.spread},
                       {"clear_pairs", static_cast<uint64_t>(cell.clear_order.n_b)},
                       {"clear_tau", cell.clear_order.tau()},
                       {"regret", cell.regret}};
    if (cell.paired_regret > 0) of["paired_regret"] = cell.paired_regret;
    if (const DiskTrial& disk = cell.slower_disk; disk.share > 0)
      of["slower_disk"] = {{"rate_bytes_per_s", disk.rate},
                           {"share", disk.share},
                           {"measured_ms", disk.measured_ms},
                           {"plan_ms", disk.plan_ms},
                           {"dual_ms", disk.dual_ms}};
    of["plans"] = std::move(plans);
    list.push_back(std::move(of));
  }
  const TrialSummary summary = summary_of(cells);
  return {{"cells", list},
          {"n_plans", summary.n_plans},
          {"error_median", summary.error_median},
          {"error_p95", summary.error_p95},
          {"tau", summary.tau_mean},
          {"clear_pairs", static_cast<uint64_t>(summary.clear_order.n_b)},
          {"clear_tau", summary.clear_order.tau()},
          {"regret", summary.regret_max},
          {"peak_ratio", summary.bytes_ratio_max}};
}

}  // namespace strata::cli
