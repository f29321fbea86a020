#include "tools/cli/plan_notices.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/byte_text.h"
#include "tools/cli/notices.h"
#include "tools/cli/plan_words.h"
#include "tools/cli/sample_statistics.h"
#include "tools/cli/weight_notices.h"

namespace strata::cli {
namespace {

using engine::Engine;
using nlohmann::ordered_json;
using planner::StepTime;

constexpr size_t kDriftTokens = 50;
constexpr double kDrift = 0.2;

double median_ms(std::span<const engine::LoneStep> steps) {
  std::vector<double> ms;
  for (const engine::LoneStep& step : steps) ms.push_back(step.ms);
  return median(std::move(ms));
}

/// Which memory holds no more, by whose word.
std::string holder_text(const Engine& engine) {
  const engine::EngineOptions& options = engine.options();
  if (engine.device() != nullptr) return options.hbm_bytes > 0 ? "--hbm" : "the device's memory";
  std::string stated;
  const auto add = [&](const char* option, uint64_t bytes) {
    if (bytes > 0)
      stated +=
          fmt::format("{}{} {}", stated.empty() ? "" : ", ", option, engine::size_argument(bytes));
  };
  add("--dram", options.dram_bytes);
  add("--weights-dram", options.weights_dram_bytes);
  add("--kv-dram", options.kv_dram_bytes);
  return stated.empty() ? "the memory that is free" : stated;
}

/// By whom K and V are read that a device does not hold.
const char* far_text(planner::CpuPart part) {
  constexpr const char* kTexts[] = {"across the link", "across the link and by the CPU",
                                    "by the CPU"};
  return kTexts[static_cast<size_t>(part)];
}

/// Why not all of it is near.
std::string reason_text(const PlacedPlan& plan, const Engine& engine) {
  if (plan.placed_by == PlacedBy::kFile) return "as the plan's file has it";
  const engine::PlacementRequest& request = plan.subject.request;
  if (!request.pins.empty() || request.kv_pin) return "as pinned";
  return holder_text(engine) + " holds no more";
}

}  // namespace

std::string plan_line(const PlacedPlan& plan, const Engine& engine) {
  const LayerCounts counts = layer_counts(plan.problem, plan.layers);
  const KvShares shares = kv_shares(plan.problem, plan.layers);
  std::string what;
  const auto add = [&](const std::string& part) { what += (what.empty() ? "" : ", ") + part; };
  const uint64_t n_in_part = counts.n_split_to_file();
  if (counts.file + n_in_part > 0)
    add(fmt::format("{} of {} layers streamed{}", counts.file + n_in_part, counts.all(),
                    in_part_text(n_in_part)));
  if (shares.file > 0) add(fmt::format("{:.0f} % of K and V on disk", 100 * shares.file));
  if (plan.problem.has_device && counts.hbm < counts.all())
    add(fmt::format(
        "{} of {} layers pass through the device{}{}", counts.all() - counts.hbm, counts.all(),
        in_part_text(counts.n_split()),
        counts.on_cpu > 0 ? fmt::format(", {} of them for tokens by the CPU", counts.on_cpu) : ""));
  if (plan.problem.has_device && shares.dram > 0)
    add(fmt::format("{:.0f} % of K and V {}", 100 * shares.dram, far_text(plan.layers.cpu_part)));
  if (what.empty()) return "";
  const StepTime token = plan.token_at(engine.context().n_ctx);
  return fmt::format(
      "plan: {} ({}); predicted {} a token at the end of the context, limited by {}{}", what,
      reason_text(plan, engine), time_text(token.ms), plan_part_name(token.binding()),
      plan.is_measured() ? "" : " (rates are assumed)");
}

void say_plan(const PlacedPlan& plan, const Engine& engine, bool verbose) {
  if (!plan.subject.stale_text.empty()) notice("note: " + plan.subject.stale_text);
  const std::string line = plan_line(plan, engine);
  if (line.empty()) return;
  notice(line);
  if (!verbose) return;
  const uint32_t n_ctx = engine.context().n_ctx;
  notice(fmt::format("plan: by {}{}. {}",
                     plan.placed_by == PlacedBy::kFile      ? "--plan"
                     : plan.placed_by == PlacedBy::kPlanner ? "the planner"
                                                            : "rule",
                     plan.solve_ms > 0 ? fmt::format(" ({:.0f} ms)", plan.solve_ms) : "",
                     plan.subject.rates_text));
  notice(fmt::format("plan: a token has {}; a prompt of {} tokens takes {}{}",
                     busy_text(plan.token_at(n_ctx)), engine::grouped_number(n_ctx - 1),
                     time_text(plan.prompt_behind(0, n_ctx - 1).ms),
                     n_ctx - 1 > plan.subject.sparse_from ? ", read exactly" : ""));
}

std::string drift_line(const PlacedPlan& plan, std::span<const engine::LoneStep> steps) {
  if (!plan.is_measured() || !plan.subject.knows_touched) return "";
  for (; steps.size() >= kDriftTokens; steps = steps.first(steps.size() - kDriftTokens)) {
    const std::span<const engine::LoneStep> last = steps.last(kDriftTokens);
    const double took = median_ms(last);
    const double predicted = plan.token_at(last[kDriftTokens / 2].n_before).ms;
    if (std::abs(took - predicted) <= kDrift * predicted) continue;
    return fmt::format(
        "plan: a token took {} (the median of {}), {} were predicted; if this machine "
        "has nothing else to do, `strata calibrate` measures it again",
        time_text(took), kDriftTokens, time_text(predicted));
  }
  return "";
}

ordered_json placed_json(const PlacedPlan& plan, const engine::Generation& answer) {
  const LayerCounts counts = layer_counts(plan.problem, plan.layers);
  const KvShares shares = kv_shares(plan.problem, plan.layers);
  const auto n_prompt = static_cast<double>(answer.usage.prompt_tokens);
  const auto n_cached = static_cast<double>(answer.usage.cached_tokens);
  const std::vector<engine::LoneStep>& steps = answer.times.lone_steps;
  ordered_json json = {
      {"placed_by", placed_by_name(plan.placed_by)},
      {"is_measured", plan.is_measured()},
      {"chunk_rows", plan.problem.chunk_rows},
      {"layers", layer_counts_json(counts)},
      {"kv_share", {{"hbm", shares.hbm}, {"dram", shares.dram}, {"nvme", shares.file}}},
      {"predicted_ttft_ms", plan.prompt_behind(n_cached, std::max(0.0, n_prompt - n_cached)).ms},
      {"ttft_ms", answer.times.ttft_ms}};
  if (answer.usage.prompt_tokens > plan.subject.sparse_from) json["was_read_sparsely"] = true;
  if (plan.solve_ms > 0) json["solve_ms"] = plan.solve_ms;
  if (steps.empty()) return json;
  const StepTime token = plan.token_at(steps[steps.size() / 2].n_before);
  json["predicted_tpot_ms"] = token.ms;
  json["tpot_ms"] = median_ms(steps);
  json["binding"] = plan_part_name(token.binding());
  return json;
}

}  // namespace strata::cli
