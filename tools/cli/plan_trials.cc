#include "tools/cli/plan_trials.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <random>
#include <utility>

#include "base/error.h"
#include "base/even_spread.h"
#include "engine/dram_budget.h"
#include "engine/kv_placement.h"
#include "engine/machine.h"
#include "tools/cli/bench_fill.h"
#include "tools/cli/bench_prediction.h"
#include "tools/cli/dram_read.h"
#include "tools/cli/placed_plan.h"
#include "tools/cli/request_options.h"
#include "tools/cli/sample_statistics.h"

namespace strata::cli {
namespace {

using Clock = std::chrono::steady_clock;
using engine::Engine;
using engine::Placement;

constexpr double kBudgetShares[] = {0.1, 0.4, 0.8};
constexpr uint32_t kWarmTokens = 2;
constexpr uint32_t kDrawsPerPlan = 20;  // of random plans that may not fit

engine::EngineOptions options_of(const Command& command, const PlanCell& cell,
                                 const PlanTrialOptions& trial) {
  engine::EngineOptions options = engine_options(command.settings);
  const uint64_t n_turns = std::max<uint32_t>(1, trial.n_pairs);
  options.n_ctx = cell.n_depth + kWarmTokens + n_turns * trial.n_tokens;
  options.dram_bytes = cell.dram_bytes;
  options.reads_saved = false;
  options.allow_untrained = true;
  return options;
}

Command with_budget(const Command& command, const PlanCell& cell) {
  Command own = command;
  own.settings.dram = cell.dram_bytes;
  return own;
}

Placement placement_of(const Engine& engine) {
  const engine::KvPlacement& kv = engine.context().kv;
  Placement placement;
  placement.n_ctx = static_cast<uint32_t>(engine.context().n_ctx);
  placement.chunk_rows = engine.context().chunk_rows;
  placement.k_codec = engine.options().k_codec;
  placement.v_codec = engine.options().v_codec;
  placement.is_streamed = engine.weight_plan().is_streamed;
  placement.kv_dram_bytes = kv.is_spilling() ? kv.dram_bytes() : 0;
  return placement;
}

/// What may be placed in one cell: so many layers streamed, and what K and V may have then.
class PlanSpace {
 public:
  explicit PlanSpace(const Engine& engine)
      : base_(placement_of(engine)),
        sizes_(engine::weight_sizes(engine.file(), engine.spec())),
        available_(engine.limits().available_bytes) {
    const ModelShape& shape = engine.spec().shape;
    engine::ContextRequest request = engine.limits();
    request.chunk_rows = base_.chunk_rows;
    const engine::KvContext context = kv_context(request, base_.n_ctx);
    buffers_ = engine::buffer_bytes(shape, request);
    whole_ = place_whole(shape, context).dram_bytes();
    // Of a short context that is more than all of it.
    smallest_ = engine::can_spill(shape) && request.nvme_bytes > 0
                    ? std::min(whole_, smallest_spilling_dram(shape, context))
                    : whole_;
  }

  uint32_t n_layers() const { return static_cast<uint32_t>(base_.is_streamed.size()); }
  uint64_t smallest() const { return smallest_; }
  uint64_t whole() const { return whole_; }
  /// Bytes for K and V where so many layers are streamed.
  uint64_t room(uint32_t n_streamed) const {
    const uint64_t weights = weight_plan_of(sizes_, flags(n_streamed)).total_bytes();
    return available_ - std::min(available_, weights + buffers_);
  }
  bool is_possible(uint32_t n_streamed) const { return room(n_streamed) >= smallest_; }
  /// kv_bytes at least whole() = all of them.
  Placement with(uint32_t n_streamed, uint64_t kv_bytes) const {
    Placement placement = base_;
    placement.is_streamed = flags(n_streamed);
    placement.kv_dram_bytes = kv_bytes >= whole_ ? 0 : kv_bytes;
    return placement;
  }

 private:
  std::vector<uint8_t> flags(uint32_t n_streamed) const {
    const uint64_t n = base_.is_streamed.size();
    std::vector<uint8_t> flags(n);
    for (uint64_t i = 0; i < n; ++i) flags[i] = is_spread_to(i, n_streamed, n) ? 1 : 0;
    return flags;
  }
  Placement base_;
  engine::WeightSizes sizes_;
  uint64_t available_, buffers_ = 0, whole_ = 0, smallest_ = 0;
};

bool is_same(const Placement& a, const Placement& b) {
  return a.is_streamed == b.is_streamed && a.kv_dram_bytes == b.kv_dram_bytes;
}

void add_plan(std::vector<PlanTrial>& trials, std::string name, Placement placement) {
  for (const PlanTrial& trial : trials)
    if (is_same(trial.placement, placement)) return;
  const auto n_streamed =
      static_cast<uint32_t>(std::ranges::count(placement.is_streamed, uint8_t{1}));
  trials.push_back(
      {.name = std::move(name), .placement = std::move(placement), .n_streamed = n_streamed});
}

/// What users and other systems do by hand.
void add_presets(const PlanSpace& space, std::vector<PlanTrial>& trials) {
  const uint32_t n_layers = space.n_layers();
  double nearest = 2;
  uint32_t even = n_layers + 1;
  bool has_first = false, has_whole = false;
  for (uint32_t n = 0; n <= n_layers; ++n) {
    const uint64_t room = space.room(n);
    if (!space.is_possible(n)) continue;
    if (!std::exchange(has_first, true)) {
      add_plan(trials, "weights first", space.with(n, room));
      add_plan(trials, "K and V on disk", space.with(n, space.smallest()));
    }
    if (room >= space.whole() && !std::exchange(has_whole, true))
      add_plan(trials, n == 0 ? "all in DRAM" : "K and V first", space.with(n, room));
    const double weights = 1 - static_cast<double>(n) / n_layers;
    const double kv = std::min(1.0, static_cast<double>(room) / static_cast<double>(space.whole()));
    if (std::abs(weights - kv) < nearest) {
      nearest = std::abs(weights - kv);
      even = n;
    }
  }
  if (even <= n_layers) add_plan(trials, "even shares", space.with(even, space.room(even)));
  if (!space.is_possible(n_layers)) return;
  add_plan(trials, "weights on disk", space.with(n_layers, space.room(n_layers)));
  add_plan(trials, "all on disk", space.with(n_layers, space.smallest()));
}

void add_random(const PlanSpace& space, const PlanTrialOptions& options,
                std::vector<PlanTrial>& trials) {
  std::mt19937_64 random(options.seed);
  for (uint32_t i = 0; i < kDrawsPerPlan * options.n_plans && trials.size() < options.n_plans;
       ++i) {
    const auto n = static_cast<uint32_t>(random() % (space.n_layers() + 1));
    if (!space.is_possible(n)) continue;
    const uint64_t most = std::min(space.room(n), space.whole());
    const double share = std::uniform_real_distribution<double>(0, 1)(random);
    const uint64_t kv = space.smallest() +
                        static_cast<uint64_t>(share * static_cast<double>(most - space.smallest()));
    add_plan(trials, fmt::format("random {}", i + 1), space.with(n, kv));
  }
}

/// An engine that runs a plan, behind a context of random K and V.
class RunningPlan {
 public:
  RunningPlan(const Command& command, const PlanCell& cell, const Placement& placement,
              const PlanTrialOptions& options)
      : options_(options), engine_(Engine::open(options_of(command, cell, options))) {
    engine_.place(placement);
    plan_ = std::make_unique<PlacedPlan>(placed_plan(with_budget(command, cell), engine_));
    engine_.load({});
    engine_.walk().set_cancel(options.cancel);
    sequence_ = std::make_unique<engine::Sequence>(engine_.cache().make_sequence());
    const uint32_t vocabulary = engine_.spec().shape.vocab_size;
    fill_random(engine_, *sequence_, draw_.tokens(cell.n_depth, vocabulary), options.cancel);
    tokens_ms(kWarmTokens);
  }
  /// The median time of so many tokens.
  double tokens_ms(uint32_t n) {
    const auto tokens = draw_.tokens(n, engine_.spec().shape.vocab_size);
    std::vector<double> ms;
    for (const int32_t token : tokens) {
      check_bench_cancelled(options_.cancel);
      const engine::StepRow row{sequence_.get(), token, true};
      const auto start = Clock::now();
      engine_.walk().step({&row, 1});
      ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    }
    return median(ms);
  }
  double dram_gbytes_per_s() { return measure_dram_read(engine_.pool(), {}); }
  uint32_t n_pos() const { return sequence_->n_pos(); }
  const PlacedPlan& plan() const { return *plan_; }

 private:
  const PlanTrialOptions& options_;
  Engine engine_;
  std::unique_ptr<PlacedPlan> plan_;
  std::unique_ptr<engine::Sequence> sequence_;
  RandomDraw draw_;
};

/// Memory is probed beside each plan, the disk, which takes longer, beside each cell.
void measure(const Command& command, const PlanCell& cell, const PlanTrialOptions& options,
             double disk_pace, PlanTrial& trial) {
  engine::forget_peak_memory();
  RunningPlan running(command, cell, trial.placement, options);
  trial.measured_ms = running.tokens_ms(options.n_tokens);
  trial.measured_bytes = engine::peak_memory_bytes();  // before the probe, which takes some
  const planner::MachinePace pace{.dram = dram_pace(running.plan(), running.dram_gbytes_per_s()),
                                  .disk = disk_pace};
  trial.predicted_ms = running.plan().token_at(running.n_pos() - options.n_tokens / 2.0, pace).ms;
  trial.predicted_bytes = predicted_peak_bytes(running.plan());
}

/// The first against the second, in turns: what drifts meanwhile drifts for both.
double ratio_in_turns(const Command& command, const PlanCell& cell, const PlanTrialOptions& options,
                      const Placement& first, const Placement& second) {
  RunningPlan a(command, cell, first, options), b(command, cell, second, options);
  std::vector<double> ratios;
  for (uint32_t i = 0; i < options.n_pairs; ++i) {
    const bool is_swapped = i % 2 == 1;
    const double b_first = is_swapped ? b.tokens_ms(options.n_tokens) : 0;
    const double of_a = a.tokens_ms(options.n_tokens);
    const double of_b = is_swapped ? b_first : b.tokens_ms(options.n_tokens);
    ratios.push_back(of_a / of_b);
  }
  return median(ratios);
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
  const Engine engine = Engine::open(options_of(command, {n_depth, 0}, options));
  const engine::WeightSizes sizes = engine::weight_sizes(engine.file(), engine.spec());
  const PlanSpace space(engine);
  const uint32_t n_layers = space.n_layers();
  const uint64_t fixed =
      engine::kProcessBytes + engine::buffer_bytes(engine.spec().shape, engine.limits());
  const auto weights = [&](uint8_t is_streamed) {
    return weight_plan_of(sizes, std::vector<uint8_t>(n_layers, is_streamed)).total_bytes();
  };
  const uint64_t least = fixed + engine::smallest_weight_budget(sizes) + space.smallest();
  const uint64_t all = fixed + weights(0) + space.whole();
  std::vector<uint64_t> budgets;
  for (const double share : kBudgetShares)
    budgets.push_back(
        least + static_cast<uint64_t>(share * static_cast<double>(all - std::min(all, least))));
  return budgets;
}

CellResult try_plans(const Command& command, const PlanCell& cell,
                     const PlanTrialOptions& options) {
  CellResult result{.cell = cell, .trials = {}};
  double disk_pace = 1;
  {
    Engine engine = Engine::open(options_of(command, cell, options));
    const PlanSpace space(engine);
    const Placement by_hand = placement_of(engine);
    const PlacedPlan own = place_by_plan(with_budget(command, cell), engine);
    add_plan(result.trials, "planner", placement_of(engine));
    add_plan(result.trials, "rules by hand", by_hand);
    add_presets(space, result.trials);
    add_random(space, options, result.trials);
    const engine::EngineOptions opened = engine_options(command.settings);
    disk_pace = measure_disk_pace(own.subject.request.profile, opened.nvme_directory, opened.io,
                                  options.cancel);
  }
  std::vector<PlanTrial> measured;
  for (PlanTrial& trial : result.trials) {
    check_bench_cancelled(options.cancel);
    try {
      measure(command, cell, options, disk_pace, trial);
      measured.push_back(std::move(trial));
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kDoesNotFit) throw;
      options.on_note(fmt::format("{}: {}", trial.name, error.what()));
    }
  }
  result.trials = std::move(measured);
  if (result.trials.size() < 2) return result;
  const auto best = std::ranges::min_element(result.trials.begin() + 1, result.trials.end(), {},
                                             &PlanTrial::measured_ms);
  const PlanTrial& own = result.trials.front();
  result.order_tau = kendall_tau(values_of(result.trials, &PlanTrial::predicted_ms),
                                 values_of(result.trials, &PlanTrial::measured_ms));
  result.regret = own.measured_ms / std::min(own.measured_ms, best->measured_ms);
  try {
    if (options.n_pairs > 0)
      result.paired_regret = ratio_in_turns(command, cell, options, own.placement, best->placement);
  } catch (const Error& error) {
    // Two engines want the budget twice, which the machine need not have.
    if (error.code() != ErrorCode::kDoesNotFit && error.code() != ErrorCode::kOutOfMemory) throw;
    options.on_note(fmt::format("{} and {} in turns: {}", own.name, best->name, error.what()));
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
