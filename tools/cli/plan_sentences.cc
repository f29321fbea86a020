#include "tools/cli/plan_sentences.h"

#include <fmt/format.h>

#include "base/error.h"
#include "engine/byte_text.h"
#include "tools/cli/plan_notices.h"
#include "tools/cli/plan_words.h"

namespace strata::cli {
namespace {

const char* placer_text(PlacedBy who) {
  if (who == PlacedBy::kFile) return "A plan's file";
  return who == PlacedBy::kPlanner ? "The planner" : "The rules of the engine";
}

std::string layers_text(const PlacedPlan& plan) {
  const LayerCounts counts = layer_counts(plan.problem, plan.layers);
  std::string text;
  const auto add = [&](uint64_t n, const std::string& where) {
    if (n > 0) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", n, where);
  };
  add(counts.hbm, "in the device's memory");
  add(counts.dram, "in DRAM");
  add(counts.file, "read from the model file in every step");
  for (const SplitLayers& split : counts.split)
    add(split.layers.size(), split_text(split, "in the device's memory"));
  return fmt::format("{} decided. Weights of {} layers: {}.", placer_text(plan.placed_by),
                     counts.all(), text);
}

std::string kv_text(const PlacedPlan& plan) {
  const KvShares shares = kv_shares(plan.problem, plan.layers);
  std::string text;
  const auto add = [&](double share, const char* where) {
    if (share > 0)
      text += fmt::format("{}{:.0f} % {}", text.empty() ? "" : ", ", 100 * share, where);
  };
  add(shares.hbm, "in the device's memory");
  add(shares.dram, "in DRAM");
  add(shares.file, "on disk");
  return text.empty() ? "" : fmt::format("K and V of a full context: {}.", text);
}

/// The duals of the plan that the planner would make now.
std::vector<std::string> dual_sentences(const PlacedPlan& plan) {
  std::vector<std::string> sentences;
  try {
    const auto answer = find_plan(plan.subject, plan.subject.request, /*with_duals=*/true);
    if (!answer) return sentences;
    for (const planner::PlanDual& dual : answer->plan.duals) {
      const DualWords words = dual_words(dual, *answer);
      sentences.push_back(fmt::format("{} would bring {}.", words.what, words.brings));
    }
  } catch (const Error&) {
    return {};  // the plan stands without them
  }
  for (std::string& sentence : sentences)
    if (sentence[0] >= 'a' && sentence[0] <= 'z') sentence[0] = static_cast<char>(sentence[0] - 32);
  return sentences;
}

}  // namespace

std::vector<std::string> plan_sentences(const PlacedPlan& plan, const engine::Engine& engine) {
  std::vector<std::string> sentences = {layers_text(plan)};
  if (std::string kv = kv_text(plan); !kv.empty()) sentences.push_back(std::move(kv));
  const uint32_t n_ctx = engine.context().n_ctx;
  const planner::StepTime token = plan.token_at(n_ctx);
  sentences.push_back(fmt::format("A token at the end of the context of {} should take {}, {}: {}.",
                                  engine::grouped_number(n_ctx), time_text(token.ms),
                                  limit_text(token), busy_text(token)));
  sentences.push_back(plan.subject.rates_text);
  if (plan_line(plan, engine).empty()) {
    sentences.emplace_back("Everything is as near as it can be.");
    return sentences;
  }
  for (std::string& sentence : dual_sentences(plan)) sentences.push_back(std::move(sentence));
  return sentences;
}

}  // namespace strata::cli
