// `strata bench --validate-plans`: predicted against measured over many plans.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "base/error.h"
#include "engine/engine.h"
#include "tools/cli/bench_setup.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/json_output.h"
#include "tools/cli/notices.h"
#include "tools/cli/placed_plan.h"
#include "tools/cli/plan_trials.h"
#include "tools/cli/request_options.h"

namespace strata::cli {
namespace {

/// Without a measured profile there is nothing to judge.
void expect_measured(const Command& command) {
  engine::EngineOptions options = engine_options(command.settings);
  options.reads_saved = false;
  options.n_ctx = kBlockPositions;
  const engine::Engine engine = engine::Engine::open(options);
  if (engine.device() != nullptr)
    throw Error(ErrorCode::kUsage, "--validate-plans judges plans of the CPU",
                command.where("device"), "use --device none");
  const PlacedPlan plan = placed_plan(command, engine);
  if (!plan.is_measured())
    throw Error(ErrorCode::kUsage, "nothing can be predicted: " + plan.subject.rates_text,
                "--validate-plans", "run `strata calibrate` with the same --nvme first");
}

}  // namespace

int run_plan_trials(const Command& command, AnswerSink& sink) {
  const Settings& settings = command.settings;
  if (command.is_set("dram") || command.is_set("kv-dram") || command.is_set("weights-dram"))
    throw Error(ErrorCode::kUsage, "--validate-plans chooses its own budgets", "--validate-plans",
                "leave --dram, --kv-dram and --weights-dram out");
  expect_measured(command);
  const bool is_json = bench_format(settings) != "md";
  PlanTrialOptions options;
  options.n_plans = static_cast<uint32_t>(settings.plans);
  options.n_pairs = static_cast<uint32_t>(settings.repetitions);
  options.n_rounds = std::min(options.n_rounds, std::max(1u, options.n_pairs));
  options.cancel = &interrupt_flag();
  options.on_note = [](const std::string& line) { notice("note: " + line); };
  std::vector<CellResult> cells;
  const auto write_end = [&] {
    sink.write(is_json ? json_text(trials_json(cells)) + "\n" : summary_text(summary_of(cells)));
    sink.close();
  };
  try {
    for (const uint64_t depth : settings.n_depth)
      for (const uint64_t budget : trial_budgets(command, static_cast<uint32_t>(depth), options)) {
        options.seed += 1;
        cells.push_back(try_plans(command, {static_cast<uint32_t>(depth), budget}, options));
        if (!is_json) sink.write(trials_text(cells.back()));
      }
  } catch (const Error&) {
    // Tables that are whole took minutes each.
    if (!cells.empty()) write_end();
    throw;
  }
  write_end();
  return 0;
}

}  // namespace strata::cli
