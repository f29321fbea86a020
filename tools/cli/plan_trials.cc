#include "tools/cli/plan_trials.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "base/error.h"
#include "engine/dram_budget.h"
#include "engine/machine.h"
#include "tools/cli/bench_prediction.h"
#include "tools/cli/placed_plan.h"
#include "tools/cli/plan_space.h"
#include "tools/cli/request_options.h"

namespace strata::cli {
namespace {

using engine::Engine;
using engine::Placement;

constexpr double kBudgetShares[] = {0.1, 0.4, 0.8};
constexpr uint32_t kDrawsPerPlan = 20;  // of random plans that may not fit
// Of the rate that the plan counts on, or that a token has read at where that is less: so held, the
// limit sets a disk's rate, whatever else does.
constexpr double kHeldDisk = 0.75;
constexpr double kSlowerDisk = 0.8;  // of that

bool is_same(const Placement& a, const Placement& b) {
  return a.streamed == b.streamed && a.kv_dram_bytes == b.kv_dram_bytes;
}

void add_plan(std::vector<PlanTrial>& trials, std::string name, Placement placement) {
  for (const PlanTrial& trial : trials)
    if (is_same(trial.placement, placement)) return;
  const auto n_streamed =
      static_cast<uint32_t>(std::ranges::count_if(placement.streamed, &PieceSet::is_any));
  trials.push_back(
      {.name = std::move(name), .placement = std::move(placement), .n_streamed = n_streamed});
}

/// Two engines want the budget twice, which the machine need not have.
bool is_no_room(const Error& error) {
  return error.code() == ErrorCode::kDoesNotFit || error.code() == ErrorCode::kOutOfMemory;
}

double busy_disk_ms(const PlanRun& run, const planner::MachinePace& pace) {
  const planner::StepTime token = run.plan().token_at(run.n_positions(), pace);
  return token.busy_ms[static_cast<size_t>(planner::PlanPart::kNvme)];
}

/// The plans of one cell, tried.
class CellTrial {
 public:
  CellTrial(const Command& command, const PlanCell& cell, const PlanTrialOptions& options)
      : command_(command), cell_(cell), options_(options) {}

  std::vector<PlanTrial> list();
  /// Leaves those that fit.
  void measure(std::vector<PlanTrial>& trials);
  double spread() const { return spread_; }
  double ratio_in_turns(const Placement& first, const Placement& second);
  DiskTrial slow_disk(const PlanTrial& own);

 private:
  std::unique_ptr<PlanRun> run(const Placement& placement, uint64_t disk_rate = 0) {
    return std::make_unique<PlanRun>(command_, cell_, placement, options_.timing, options_.cancel,
                                     disk_rate);
  }
  struct Rounds {
    std::vector<double> predicted_ms, measured_ms;
    double n_positions = 0;
    planner::PlacementProblem problem;  // of its plan, whose engine is gone
    planner::LayerPlacement layers;
  };
  void measure_once(PlanTrial& trial, Rounds& rounds);
  template <class Compare>
  double in_turns(PlanRun& first, PlanRun& second, const Compare& compare);
  double disk_pace();

  const Command& command_;
  const PlanCell& cell_;
  const PlanTrialOptions& options_;
  planner::MachineProfile profile_;
  double spread_ = 0;
  double disk_before_ = 0;                       // the disk's pace before the next measurement
  std::vector<double> dram_paces_, disk_paces_;  // of all measurements
};

double CellTrial::disk_pace() {
  const engine::EngineOptions opened = engine_options(command_.settings);
  const double pace =
      measure_disk_pace(profile_, opened.nvme_directory, opened.io, options_.cancel);
  return limited_disk_pace(profile_, pace, opened.disk_read_bytes_per_s);
}

std::vector<PlanTrial> CellTrial::list() {
  std::vector<PlanTrial> trials;
  Engine engine = Engine::open(plan_run_options(command_, cell_, options_.timing));
  const PlanSpace space(engine);
  const Placement by_hand = placement_of(engine);
  // Tokens behind the depth are what is measured, so a plan is asked for that makes these quick.
  const AnswerBehind measured{cell_.n_depth, options_.timing.n_least};
  profile_ = place_by_plan(with_budget(command_, cell_), engine, measured).subject.request.profile;
  add_plan(trials, "planner", placement_of(engine));
  add_plan(trials, "rules by hand", by_hand);
  const auto take = [&](std::string name, Placement placement) {
    if (trials.size() < options_.n_plans) add_plan(trials, std::move(name), std::move(placement));
    return trials.size() < options_.n_plans;
  };
  list_presets(space, take);
  list_moves(space, Placement(trials.front().placement), take);
  if (trials.size() < options_.n_plans)
    draw_plans(space, options_.seed, kDrawsPerPlan * options_.n_plans, take);
  return trials;
}

/// Memory and the disk are probed beside each plan: what a disk that others share gives changes
/// within seconds.
void CellTrial::measure_once(PlanTrial& trial, Rounds& rounds) {
  check_bench_cancelled(options_.cancel);
  if (disk_before_ == 0) disk_before_ = disk_pace();
  engine::release_freed_memory();  // of the plan and the probe before
  engine::forget_peak_memory();
  const auto running = run(trial.placement);
  rounds.measured_ms.push_back(running->token_ms());
  // Before the probes, which take some.
  trial.measured_bytes = std::max(trial.measured_bytes, engine::peak_memory_bytes());
  const PlacedPlan& plan = running->plan();
  const double disk_after = disk_pace();
  const planner::MachinePace pace{.dram = dram_pace(plan, running->dram_gbytes_per_s()),
                                  .disk = (disk_before_ + disk_after) / 2};
  disk_before_ = disk_after;  // of the next one, which follows at once
  dram_paces_.push_back(pace.dram);
  disk_paces_.push_back(pace.disk);
  rounds.n_positions = running->n_positions();
  rounds.predicted_ms.push_back(plan.token_at(rounds.n_positions, pace).ms);
  rounds.problem = plan.problem;
  rounds.layers = plan.layers;
  trial.predicted_bytes = predicted_peak_bytes(plan);
}

/// Plans from all over the list are measured again at every round's end: by how much one differs
/// from itself at most.
void CellTrial::measure(std::vector<PlanTrial>& trials) {
  std::vector<Rounds> rounds(trials.size()), again(trials.size());
  const size_t n_repeats = std::min<size_t>(options_.n_repeats, trials.size());
  std::vector<uint8_t> is_repeated(trials.size()), has_no_room(trials.size());
  for (size_t i = 0; i < n_repeats; ++i) is_repeated[i * trials.size() / n_repeats] = 1;
  for (uint32_t round = 0; round < options_.n_rounds; ++round) {
    for (size_t i = 0; i < trials.size(); ++i) {
      if (has_no_room[i]) continue;
      try {
        measure_once(trials[i], rounds[i]);
      } catch (const Error& error) {
        // What the others are judged beside is the planner's own.
        if (error.code() != ErrorCode::kDoesNotFit || i == 0) throw;
        has_no_room[i] = 1;
        options_.on_note(fmt::format("{}: {}", trials[i].name, error.what()));
      }
    }
    for (size_t i = 0; i < trials.size(); ++i)
      if (is_repeated[i] && !has_no_room[i]) measure_once(trials[i], again[i]);
  }
  const planner::MachinePace usual{.dram = median(dram_paces_), .disk = median(disk_paces_)};
  std::vector<PlanTrial> kept;
  double spread = 0;
  for (size_t i = 0; i < trials.size(); ++i) {
    if (has_no_room[i]) continue;
    trials[i].predicted_ms = median(rounds[i].predicted_ms);
    trials[i].measured_ms = median(rounds[i].measured_ms);
    trials[i].ranked_ms =
        token_behind(rounds[i].problem, rounds[i].layers, rounds[i].n_positions, usual).ms;
    if (is_repeated[i])
      spread = std::max(spread,
                        std::abs(std::log(median(again[i].measured_ms) / trials[i].measured_ms)));
    kept.push_back(std::move(trials[i]));
  }
  spread_ = std::exp(spread) - 1;
  trials = std::move(kept);
}

/// The median of compare(first's ms, second's ms), in turns: what drifts meanwhile drifts for both.
template <class Compare>
double CellTrial::in_turns(PlanRun& first, PlanRun& second, const Compare& compare) {
  std::vector<double> compared;
  for (uint32_t i = 0; i < options_.n_pairs; ++i) {
    const bool is_swapped = i % 2 == 1;
    const double second_first = is_swapped ? second.token_ms() : 0;
    const double of_first = first.token_ms();
    compared.push_back(compare(of_first, is_swapped ? second_first : second.token_ms()));
  }
  return median(compared);
}

double CellTrial::ratio_in_turns(const Placement& first, const Placement& second) {
  const auto a = run(first), b = run(second);
  return in_turns(*a, *b, [](double of_a, double of_b) { return of_a / of_b; });
}

/// Nothing where the plan reads no disk, or so slowly that reads might outlast their deadline. A
/// dual is of a rate that is known: the disk is held at one that it surely gives, and then at less.
DiskTrial CellTrial::slow_disk(const PlanTrial& own) {
  DiskTrial trial;
  auto plain = run(own.placement);
  if (!reads_disk(plain->plan())) return trial;
  const double token_ms = plain->token_ms();
  planner::MachinePace pace{.dram = dram_pace(plain->plan(), plain->dram_gbytes_per_s()),
                            .disk = disk_pace()};
  const double read_ms = busy_disk_ms(*plain, pace);
  if (!(read_ms > 0) || !(plain->disk_bytes() > 0)) return trial;
  const double held_ms = std::max(read_ms, token_ms) / kHeldDisk;
  const double rate = plain->disk_bytes() * 1e3 / held_ms;
  if (kSlowerDisk * rate < static_cast<double>(kLeastDiskRate)) return trial;
  pace.disk *= read_ms / held_ms;
  plain.reset();  // memory for two
  const auto held = run(own.placement, static_cast<uint64_t>(rate));
  const auto slower = run(own.placement, static_cast<uint64_t>(kSlowerDisk * rate));
  trial.measured_ms = in_turns(
      *slower, *held, [](double of_slower, double of_held) { return of_slower - of_held; });
  trial.rate = rate;
  trial.share = kSlowerDisk;
  const PlacedPlan& plan = held->plan();
  const double n_positions = held->n_positions();
  trial.dual_ms = plan.slower_disk_ms(n_positions, kSlowerDisk, pace);
  planner::MachinePace slower_pace = pace;
  slower_pace.disk *= kSlowerDisk;
  trial.plan_ms = plan.token_at(n_positions, slower_pace).ms - plan.token_at(n_positions, pace).ms;
  return trial;
}

std::vector<double> values_of(const std::vector<PlanTrial>& trials, double PlanTrial::*value) {
  std::vector<double> values(trials.size());
  std::ranges::transform(trials, values.begin(), [&](const PlanTrial& of) { return of.*value; });
  return values;
}

}  // namespace

double PlanTrial::error() const { return std::abs(predicted_ms / measured_ms - 1); }

std::vector<uint64_t> trial_budgets(const Command& command, uint32_t n_depth,
                                    const PlanTrialOptions& options) {
  const Engine engine = Engine::open(plan_run_options(command, {n_depth, 0}, options.timing));
  const engine::WeightSizes sizes = engine::weight_sizes(engine.file(), engine.spec());
  const PlanSpace space(engine);
  const uint32_t n_layers = space.n_layers();
  const uint64_t fixed =
      engine::kProcessBytes + engine::buffer_bytes(engine.spec().shape, engine.limits());
  const auto weights = [&](PieceSet streamed) {
    return weight_plan_of(sizes, std::vector<PieceSet>(n_layers, streamed)).total_bytes();
  };
  const uint64_t least = fixed + engine::smallest_weight_budget(sizes) + space.smallest();
  const uint64_t all = fixed + weights(kNoPiece) + space.whole();
  std::vector<uint64_t> budgets;
  for (const double share : kBudgetShares)
    budgets.push_back(
        least + static_cast<uint64_t>(share * static_cast<double>(all - std::min(all, least))));
  return budgets;
}

CellResult try_plans(const Command& command, const PlanCell& cell,
                     const PlanTrialOptions& options) {
  CellResult result;
  result.cell = cell;
  CellTrial trial(command, cell, options);
  result.trials = trial.list();
  trial.measure(result.trials);
  if (result.trials.size() < 2) return result;
  const auto best = std::ranges::min_element(result.trials.begin() + 1, result.trials.end(), {},
                                             &PlanTrial::measured_ms);
  const PlanTrial& own = result.trials.front();
  const std::vector<double> ranked = values_of(result.trials, &PlanTrial::ranked_ms);
  const std::vector<double> measured = values_of(result.trials, &PlanTrial::measured_ms);
  result.order_tau = count_order(ranked, measured).tau();
  result.spread = trial.spread();
  result.clear_order = count_order(ranked, measured, result.spread);
  result.regret = own.measured_ms / std::min(own.measured_ms, best->measured_ms);
  if (options.n_pairs == 0) return result;
  try {
    result.paired_regret = trial.ratio_in_turns(own.placement, best->placement);
    result.slower_disk = trial.slow_disk(own);
  } catch (const Error& error) {
    if (!is_no_room(error)) throw;
    options.on_note(fmt::format("{} in turns with another: {}", own.name, error.what()));
  }
  return result;
}

TrialSummary summary_of(const std::vector<CellResult>& cells) {
  TrialSummary summary;
  std::vector<double> errors, taus;
  for (const CellResult& cell : cells) {
    for (const PlanTrial& trial : cell.trials) {
      errors.push_back(trial.error());
      summary.bytes_ratio_max =
          std::max(summary.bytes_ratio_max, static_cast<double>(trial.measured_bytes) /
                                                static_cast<double>(trial.predicted_bytes));
    }
    if (cell.trials.size() > 1) taus.push_back(cell.order_tau);
    summary.clear_order.add(cell.clear_order);
    summary.regret_max =
        std::max(summary.regret_max,
                 cell.paired_regret > 0 ? std::max(1.0, cell.paired_regret) : cell.regret);
  }
  summary.n_plans = errors.size();
  if (errors.empty()) return summary;
  summary.error_median = median(errors);
  summary.error_p95 = quantile(errors, 0.95);
  if (!taus.empty()) summary.tau_mean = mean(taus);
  return summary;
}

}  // namespace strata::cli
