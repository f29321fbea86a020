#include "tools/cli/plan_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/byte_text.h"
#include "tools/cli/notices.h"
#include "tools/cli/plan_bar.h"
#include "tools/cli/plan_words.h"

namespace strata::cli {
namespace {

using engine::grouped_number;
using nlohmann::ordered_json;
using planner::StepTime;
using planner::TierUse;

std::string tier_table(const PlanAnswer& answer, const PlanLook& look) {
  constexpr const char* kRow = "| {:<5} | {:>10} | {:>10} | {:>10} | {:>10} | {:>10} | {:>10} |\n";
  std::string out =
      fmt::format(kRow, "tier", "weights", "K and V", "index", "buffers", "free", "of");
  out += fmt::format("| {:-<5} | {:->9}: | {:->9}: | {:->9}: | {:->9}: | {:->9}: | {:->9}: |\n", "",
                     "", "", "", "", "", "");
  for (const NamedTier& tier : tiers_of(answer))
    out += fmt::format(kRow, tier.name, size_text(tier.use.weights_gb), size_text(tier.use.kv_gb),
                       size_text(tier.use.index_gb), size_text(tier.use.buffers_gb),
                       size_text(tier.use.free_gb()), size_text(tier.use.budget_gb));
  out += '\n';
  for (const NamedTier& tier : tiers_of(answer))
    out += fmt::format("  {:<5}[{}]\n", tier.name, tier_bar(tier.use, look));
  return out + "        " + bar_legend(look) + "\n";
}

std::string places_text(const PlanAnswer& answer) {
  const LayerCounts counts = layer_counts(answer.problem, answer.plan.layers);
  const KvShares shares = kv_shares(answer.problem, answer.plan.layers);
  const bool has_device = answer.problem.has_device;
  std::string out = "layers     ";
  if (has_device)
    out += fmt::format("{} in HBM, {}", counts.hbm,
                       counts.is_hbm_alone ? "without a copy in DRAM, " : "");
  out += fmt::format("{} in DRAM, {} read from the model file in every step\n", counts.dram,
                     counts.file);
  for (const SplitLayers& split : counts.split)
    out += fmt::format("           {} {}\n", split.layers.size(), split_text(split, "in HBM"));
  if (counts.on_cpu > 0)
    out += fmt::format("           of {} layers the CPU computes for tokens what is in DRAM\n",
                       counts.on_cpu);
  out += "K and V    ";
  if (has_device) out += fmt::format("{:.0f} % in HBM, ", 100 * shares.hbm);
  out += fmt::format("{:.0f} % in DRAM, {:.0f} % on disk alone\n", 100 * shares.dram,
                     100 * shares.file);
  std::string index;
  if (has_device && answer.problem.index_position_gb > 0)
    index = fmt::format("index      searched by {}\n",
                        answer.problem.card_searches() ? "the card, in HBM" : "the CPU, in DRAM");
  if (!has_device || shares.hbm > 0.9999) return out + index;
  const char* who[] = {"read across the link", "read across the link and attended on the CPU",
                       "attended on the CPU"};
  return out +
         fmt::format("           what is not in HBM is {}\n",
                     who[static_cast<size_t>(answer.plan.layers.cpu_part)]) +
         index;
}

std::string times_text(const PlanAnswer& answer) {
  const planner::PlacementPlan& plan = answer.plan;
  return fmt::format("first token after {}, {}\nthen {} per token ({:.2f} tokens/s), {}\n",
                     time_text(plan.prompt.ms), limit_text(plan.prompt), time_text(plan.token.ms),
                     1e3 / plan.token.ms, limit_text(plan.token));
}

std::string explanation(const PlanSubject& subject, const PlanAnswer& answer) {
  const planner::PlacementPlan& plan = answer.plan;
  std::string out = "\nat work     prompt      token\n";
  for (size_t i = 0; i < planner::kPlanParts; ++i) {
    if (plan.prompt.busy_ms[i] == 0 && plan.token.busy_ms[i] == 0) continue;
    out += fmt::format("  {:<8} {:>10} {:>10}\n", plan_part_name(static_cast<planner::PlanPart>(i)),
                       time_text(plan.prompt.busy_ms[i]), time_text(plan.token.busy_ms[i]));
  }
  out += "\nwhat more would bring, planned anew:\n";
  for (const planner::PlanDual& dual : plan.duals) {
    const DualWords words = dual_words(dual, answer);
    out += fmt::format("  {:<20} = {}\n", words.what, words.brings);
  }
  return out + fmt::format(
                   "\n{}\nwithout whole layers and blocks: first token after {}, then {} each; "
                   "planned in {:.0f} ms ({} iterations of the solver)\n",
                   recompute_words(subject.model.spec.shape, answer.problem).text,
                   time_text(plan.lp_ttft_ms), time_text(plan.lp_tpot_ms), answer.solve_ms,
                   plan.n_iterations);
}

std::string places_row(const PlanAnswer& answer) {
  const LayerCounts counts = layer_counts(answer.problem, answer.plan.layers);
  const std::string hbm = answer.problem.has_device ? fmt::format("{}/", counts.hbm) : "";
  const uint64_t n_split = counts.n_split();
  return fmt::format("{}{}/{}{}", hbm, counts.dram, counts.file,
                     n_split > 0 ? fmt::format(" + {} split", n_split) : "");
}

std::string kv_row(const PlanAnswer& answer) {
  const KvShares shares = kv_shares(answer.problem, answer.plan.layers);
  const std::string hbm = answer.problem.has_device ? fmt::format("{:.0f}/", 100 * shares.hbm) : "";
  return fmt::format("{}{:.0f}/{:.0f} %", hbm, 100 * shares.dram, 100 * shares.file);
}

ordered_json tier_json(const TierUse& use) {
  return {{"budget_bytes", plan_bytes(use.budget_gb)},
          {"peak_bytes", plan_bytes(use.budget_gb - use.free_gb())},
          {"weights_bytes", plan_bytes(use.weights_gb)},
          {"kv_bytes", plan_bytes(use.kv_gb)},
          {"index_bytes", plan_bytes(use.index_gb)},
          {"buffers_bytes", plan_bytes(use.buffers_gb)},
          {"free_bytes", plan_bytes(use.free_gb())}};
}

ordered_json busy_json(const StepTime& time) {
  ordered_json json = ordered_json::object();
  for (size_t i = 0; i < planner::kPlanParts; ++i)
    json[plan_part_name(static_cast<planner::PlanPart>(i))] = time.busy_ms[i];
  return json;
}

}  // namespace

std::string plan_text(const PlanSubject& subject, const PlanAnswer& answer, const PlanLook& look) {
  std::string out = fmt::format(
      "{}: {} tokens of context, {} of them answered | attention {} | KV {}/{} | -b {}\n{}{}\n\n",
      one_line(model_name(subject)), grouped_number(subject.request.n_ctx),
      grouped_number(subject.request.n_out), subject.attention,
      kv_codec_name(answer.problem.k_codec), kv_codec_name(answer.problem.v_codec),
      answer.problem.chunk_rows, answer.problem.has_device ? "" : "The CPU alone. ",
      subject.rates_text);
  out += tier_table(answer, look) + '\n' + places_text(answer) + '\n' + times_text(answer);
  if (look.explains) out += explanation(subject, answer);
  for (const std::string& note : subject.notes) out += fmt::format("note: {}\n", one_line(note));
  return out;
}

ordered_json plan_json(const PlanSubject& subject, const PlanAnswer& answer) {
  const planner::PlacementPlan& plan = answer.plan;
  const LayerCounts counts = layer_counts(answer.problem, answer.plan.layers);
  const KvShares shares = kv_shares(answer.problem, answer.plan.layers);
  const RecomputeWords recompute = recompute_words(subject.model.spec.shape, answer.problem);
  ordered_json json = {
      {"feasible", true},
      {"ttft_ms", plan.prompt.ms},
      {"tpot_ms", plan.token.ms},
      {"binding",
       {{"prefill", plan_part_name(plan.prompt.binding())},
        {"decode", plan_part_name(plan.token.binding())}}},
      {"tiers", ordered_json::object()},
      {"duals", ordered_json::array()},
      {"solve_ms", answer.solve_ms},
      {"device", subject.device},
      {"is_measured", subject.request.profile.is_measured()},
      {"n_ctx", subject.request.n_ctx},
      {"n_out", subject.request.n_out},
      {"attention", subject.attention},
      {"touched_share", answer.problem.share_touched()},
      {"type_k", kv_codec_name(answer.problem.k_codec)},
      {"type_v", kv_codec_name(answer.problem.v_codec)},
      {"chunk_rows", answer.problem.chunk_rows},
      {"layers", layer_counts_json(counts)},
      {"kv_share", {{"hbm", shares.hbm}, {"dram", shares.dram}, {"nvme", shares.file}}},
      {"busy_ms", {{"prefill", busy_json(plan.prompt)}, {"decode", busy_json(plan.token)}}},
      {"recompute",
       {{"is_on", false},
        {"could_win", recompute.could_win},
        {"split_gain", recompute.split_gain},
        {"hidden_bytes_per_position", recompute.hidden_bytes},
        {"kv_bytes_per_position", recompute.kv_bytes},
        {"reason", recompute.text}}},
      {"solver", {{"programs", plan.n_programs}, {"iterations", plan.n_iterations}}},
      {"unrounded", {{"ttft_ms", plan.lp_ttft_ms}, {"tpot_ms", plan.lp_tpot_ms}}},
      {"notes", subject.notes}};
  if (answer.problem.index_position_gb > 0)
    json["index_searched_by"] = answer.problem.card_searches() ? "card" : "cpu";
  for (const NamedTier& tier : tiers_of(answer)) json["tiers"][tier.key] = tier_json(tier.use);
  for (const planner::PlanDual& dual : plan.duals)
    json["duals"].push_back({{"resource", dual.resource},
                             {"unit", dual.unit},
                             {"ms_per_unit", dual.tpot_ms},
                             {"ttft_ms_per_unit", dual.ttft_ms}});
  return json;
}

std::string what_if_text(const std::string& changes, const PlanAnswer& now,
                         const std::optional<PlanAnswer>& then) {
  constexpr const char* kRow = "  {:<24} {:>16} {:>16}\n";
  std::string out = fmt::format("\nwhat if {}\n", one_line(changes));
  if (!then) return out + "  there is no plan: it does not fit\n";
  out += fmt::format(kRow, "", "now", "then");
  const auto row = [&](const char* what, const auto& of) {
    out += fmt::format(kRow, what, of(now), of(*then));
  };
  row("first token after", [](const PlanAnswer& of) { return time_text(of.plan.prompt.ms); });
  row("then per token", [](const PlanAnswer& of) { return time_text(of.plan.token.ms); });
  row("tokens/s", [](const PlanAnswer& of) { return fmt::format("{:.2f}", of.tokens_per_s()); });
  row("limited by", [](const PlanAnswer& of) {
    return std::string(planner::plan_part_name(of.plan.token.binding()));
  });
  row(now.problem.has_device ? "layers HBM/DRAM/file" : "layers DRAM/file", places_row);
  row(now.problem.has_device ? "K and V HBM/DRAM/disk" : "K and V DRAM/disk", kv_row);
  return out;
}

ordered_json what_if_json(const PlanAnswer& now, const std::optional<PlanAnswer>& then) {
  if (!then) return {{"feasible", false}};
  const LayerCounts counts = layer_counts(then->problem, then->plan.layers);
  const KvShares shares = kv_shares(then->problem, then->plan.layers);
  return {{"feasible", true},
          {"ttft_ms", then->plan.prompt.ms},
          {"tpot_ms", then->plan.token.ms},
          {"ttft_change_ms", then->plan.prompt.ms - now.plan.prompt.ms},
          {"tpot_change_ms", then->plan.token.ms - now.plan.token.ms},
          {"binding",
           {{"prefill", plan_part_name(then->plan.prompt.binding())},
            {"decode", plan_part_name(then->plan.token.binding())}}},
          {"layers", layer_counts_json(counts)},
          {"kv_share", {{"hbm", shares.hbm}, {"dram", shares.dram}, {"nvme", shares.file}}}};
}

}  // namespace strata::cli
