#include "tools/cli/plan_run.h"

#include <chrono>
#include <vector>

#include "tools/cli/dram_read.h"
#include "tools/cli/request_options.h"
#include "tools/cli/sample_statistics.h"

namespace strata::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kWarmTokens = 2;

engine::EngineOptions limited(engine::EngineOptions options, uint64_t disk_rate) {
  if (disk_rate > 0) options.disk_read_bytes_per_s = disk_rate;
  return options;
}

}  // namespace

engine::EngineOptions plan_run_options(const Command& command, const PlanCell& cell,
                                       const TokenTiming& timing) {
  engine::EngineOptions options = engine_options(command.settings);
  // A turn is a fork, which copies the open block.
  options.n_ctx = uint64_t{cell.n_depth} + kWarmTokens + timing.n_most + 2 * kBlockPositions;
  options.dram_bytes = cell.dram_bytes;
  options.n_sequences = 2;  // the depth, and a turn
  options.reads_saved = false;
  options.allow_untrained = true;
  return options;
}

Command with_budget(const Command& command, const PlanCell& cell) {
  Command own = command;
  own.settings.dram = cell.dram_bytes;
  return own;
}

PlanRun::PlanRun(const Command& command, const PlanCell& cell, const engine::Placement& placement,
                 const TokenTiming& timing, const std::atomic<bool>* cancel, uint64_t disk_rate)
    : timing_(timing),
      cancel_(cancel),
      engine_(engine::Engine::open(limited(plan_run_options(command, cell, timing), disk_rate))) {
  engine_.place(placement);
  plan_ = std::make_unique<PlacedPlan>(placed_plan(with_budget(command, cell), engine_));
  engine_.load({});
  engine_.walk().set_cancel(cancel);
  filled_ = std::make_unique<engine::Sequence>(engine_.cache().make_sequence());
  const uint32_t vocabulary = engine_.spec().shape.vocab_size;
  fill_random(engine_, *filled_, draw_.tokens(cell.n_depth, vocabulary), cancel);
}

double PlanRun::step_ms(int32_t token) {
  check_bench_cancelled(cancel_);
  const engine::StepRow row{running_.get(), token, true};
  const auto start = Clock::now();
  engine_.walk().step({&row, 1});
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

uint64_t PlanRun::bytes_so_far() {
  return engine_.model().read_counts().read_bytes +
         engine_.cache().store().transfer_counts().read_bytes;
}

/// Begins at the depth again, so that the context need not hold more than one turn.
double PlanRun::token_ms() {
  running_.reset();
  running_ = std::make_unique<engine::Sequence>(filled_->fork());
  const auto tokens = draw_.tokens(kWarmTokens + timing_.n_most, engine_.spec().shape.vocab_size);
  for (uint32_t i = 0; i < kWarmTokens; ++i) step_ms(tokens[i]);
  std::vector<double> ms;
  const uint64_t bytes_before = bytes_so_far();
  const auto begin = Clock::now();
  const auto is_enough = [&] {
    const std::chrono::duration<double> so_far = Clock::now() - begin;
    return ms.size() >= timing_.n_least && so_far.count() >= timing_.seconds;
  };
  while (ms.size() < timing_.n_most && !is_enough())
    ms.push_back(step_ms(tokens[kWarmTokens + ms.size()]));
  n_mean_ = filled_->n_pos() + kWarmTokens + static_cast<double>(ms.size()) / 2;
  disk_bytes_ = static_cast<double>(bytes_so_far() - bytes_before) / static_cast<double>(ms.size());
  return median(ms);
}

double PlanRun::dram_gbytes_per_s() { return measure_dram_read(engine_.pool(), {}); }

}  // namespace strata::cli
