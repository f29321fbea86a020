#include "tools/cli/plan_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/byte_text.h"
#include "tools/cli/notices.h"

namespace strata::cli {
namespace {

using engine::grouped_number;
using nlohmann::ordered_json;
using planner::PlanDual;
using planner::StepTime;
using planner::TierUse;

uint64_t bytes_of(double gb) {
  return static_cast<uint64_t>(std::llround(std::max(0.0, gb) * 1e9));
}
std::string size_text(double gb) { return engine::bytes_text(bytes_of(gb)); }

std::string time_text(double ms) {
  if (ms < 10) return fmt::format("{:.2f} ms", ms);
  if (ms < 1000) return fmt::format("{:.1f} ms", ms);
  if (ms < 120e3) return fmt::format("{:.1f} s", ms / 1e3);
  if (ms < 7200e3) return fmt::format("{:.0f} min", ms / 60e3);
  return fmt::format("{:.1f} h", ms / 3600e3);
}

struct NamedTier {
  const char* name;
  const char* key;
  const TierUse& use;
};
std::vector<NamedTier> tiers_of(const PlanAnswer& answer) {
  std::vector<NamedTier> tiers;
  if (answer.problem.has_device) tiers.push_back({"HBM", "hbm", answer.plan.hbm});
  tiers.push_back({"DRAM", "dram", answer.plan.dram});
  tiers.push_back({"NVMe", "nvme", answer.plan.nvme});
  return tiers;
}

/// Each part's length is its share, rounded from where the one before it ends.
std::string bar(const TierUse& use) {
  constexpr double kWidth = 60;
  std::string out;
  double end = 0;
  const auto add = [&](double gb, char letter) {
    end += gb;
    const double length = use.budget_gb > 0 ? std::min(kWidth, end / use.budget_gb * kWidth) : 0;
    const auto n = static_cast<size_t>(std::lround(length));
    if (n > out.size()) out.append(n - out.size(), letter);
  };
  add(use.weights_gb, 'W');
  add(use.kv_gb, 'K');
  add(use.index_gb, 'i');
  add(use.buffers_gb, 'b');
  out.append(static_cast<size_t>(kWidth) - out.size(), '.');
  return out;
}

std::string tier_table(const PlanAnswer& answer) {
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
    out += fmt::format("  {:<5}[{}]\n", tier.name, bar(tier.use));
  return out + "        W weights   K keys and values   i index   b buffers   . free\n";
}

struct LayerCounts {
  uint64_t hbm = 0, dram = 0, file = 0;
};
LayerCounts layer_counts(const PlanAnswer& answer) {
  LayerCounts counts;
  for (const planner::GroupPlace& place : answer.plan.layers.groups) {
    counts.hbm += place.n_hbm;
    counts.dram += place.n_dram;
    counts.file += place.n_nvme;
  }
  return counts;
}

struct KvShares {
  double hbm = 0, dram = 0, file = 0;
};
KvShares kv_shares(const PlanAnswer& answer) {
  const double all = answer.problem.kv_gb();
  KvShares shares{answer.plan.hbm.kv_gb / all,
                  (answer.plan.dram.kv_gb - answer.plan.hbm.kv_gb) / all, 0};
  shares.file = std::max(0.0, 1 - shares.hbm - shares.dram);
  return shares;
}

std::string places_text(const PlanAnswer& answer) {
  const LayerCounts counts = layer_counts(answer);
  const KvShares shares = kv_shares(answer);
  const bool has_device = answer.problem.has_device;
  std::string out = "layers     ";
  if (has_device) out += fmt::format("{} in HBM, ", counts.hbm);
  out += fmt::format("{} in DRAM, {} read from the model file in every step\n", counts.dram,
                     counts.file);
  out += "K and V    ";
  if (has_device) out += fmt::format("{:.0f} % in HBM, ", 100 * shares.hbm);
  out += fmt::format("{:.0f} % in DRAM, {:.0f} % on disk alone\n", 100 * shares.dram,
                     100 * shares.file);
  if (!has_device || shares.hbm > 0.9999) return out;
  const char* who[] = {"read across the link", "read across the link and attended on the CPU",
                       "attended on the CPU"};
  return out + fmt::format("           what is not in HBM is {}\n",
                           who[static_cast<size_t>(answer.plan.layers.cpu_part)]);
}

std::string limit_text(const StepTime& time) {
  const double busy = time.busy_ms[static_cast<size_t>(time.binding())];
  return fmt::format("limited by {} ({:.0f} % of the time)", plan_part_name(time.binding()),
                     100 * std::min(1.0, busy / time.ms));
}

std::string times_text(const PlanAnswer& answer) {
  const planner::PlacementPlan& plan = answer.plan;
  return fmt::format("first token after {}, {}\nthen {} per token ({:.2f} tokens/s), {}\n",
                     time_text(plan.prompt.ms), limit_text(plan.prompt), time_text(plan.token.ms),
                     1e3 / plan.token.ms, limit_text(plan.token));
}

std::string dual_text(const PlanDual& dual, const PlanAnswer& answer) {
  const auto what = [&]() -> std::string {
    if (dual.resource == "hbm") return "+1 GiB of HBM";
    if (dual.resource == "dram") return "+1 GiB of DRAM";
    if (dual.resource == "nvme") return "+1 GiB of disk";
    if (dual.resource == "nvme_read") return "a disk 10 % quicker";
    if (dual.resource == "link") return "a link 10 % quicker";
    if (dual.resource == "dram_read") return "DRAM 10 % quicker";
    return dual.resource == "cpu" ? "a CPU 10 % quicker" : "a GPU 10 % quicker";
  };
  std::string changes;
  const auto add = [&](double ms, double of, const char* phase) {
    constexpr double kNothing = 2e-3;  // of the time
    if (std::abs(ms) < kNothing * of) return;
    changes += fmt::format("{}{}{} {}", changes.empty() ? "" : ", ", ms > 0 ? "+" : "-",
                           time_text(std::abs(ms)), phase);
  };
  add(dual.tpot_ms, answer.plan.lp_tpot_ms, "per token");
  add(dual.ttft_ms, answer.plan.lp_ttft_ms, "to the first token");
  return fmt::format("  {:<20} = {}\n", what(), changes.empty() ? "nothing" : changes);
}

std::string explanation(const PlanAnswer& answer) {
  const planner::PlacementPlan& plan = answer.plan;
  std::string out = "\nat work     prompt      token\n";
  for (size_t i = 0; i < planner::kPlanParts; ++i) {
    if (plan.prompt.busy_ms[i] == 0 && plan.token.busy_ms[i] == 0) continue;
    out += fmt::format("  {:<8} {:>10} {:>10}\n", plan_part_name(static_cast<planner::PlanPart>(i)),
                       time_text(plan.prompt.busy_ms[i]), time_text(plan.token.busy_ms[i]));
  }
  out += "\nwhat more would bring, planned anew:\n";
  for (const PlanDual& dual : plan.duals) out += dual_text(dual, answer);
  return out + fmt::format(
                   "\nwithout whole layers and blocks: first token after {}, then {} each; "
                   "planned in {:.0f} ms\n",
                   time_text(plan.lp_ttft_ms), time_text(plan.lp_tpot_ms), answer.solve_ms);
}

/// What of the plan the engine cannot do yet.
std::string beyond_engine(const PlanAnswer& answer) {
  if (!answer.problem.has_device) return "";
  std::string beyond;
  const auto add = [&](const char* what) {
    beyond += fmt::format("{}{}", beyond.empty() ? "" : ", ", what);
  };
  if (layer_counts(answer).file > 0) add("weights read from the model file");
  if (answer.plan.layers.is_spilling(answer.problem)) add("K and V on disk");
  if (answer.plan.layers.cpu_part != planner::CpuPart::kNone) add("attention on the CPU");
  if (answer.problem.touched_share < 1) add("chosen blocks");
  return beyond.empty() ? "" : "beside a card this engine does not do yet: " + beyond;
}

std::vector<std::string> all_notes(const PlanSubject& subject, const PlanAnswer& answer) {
  std::vector<std::string> notes = subject.notes;
  if (const std::string beyond = beyond_engine(answer); !beyond.empty()) notes.push_back(beyond);
  return notes;
}

ordered_json tier_json(const TierUse& use) {
  return {{"budget_bytes", bytes_of(use.budget_gb)},
          {"peak_bytes", bytes_of(use.budget_gb - use.free_gb())},
          {"weights_bytes", bytes_of(use.weights_gb)},
          {"kv_bytes", bytes_of(use.kv_gb)},
          {"index_bytes", bytes_of(use.index_gb)},
          {"buffers_bytes", bytes_of(use.buffers_gb)},
          {"free_bytes", bytes_of(use.free_gb())}};
}

ordered_json busy_json(const StepTime& time) {
  ordered_json json = ordered_json::object();
  for (size_t i = 0; i < planner::kPlanParts; ++i)
    json[plan_part_name(static_cast<planner::PlanPart>(i))] = time.busy_ms[i];
  return json;
}

}  // namespace

std::string plan_text(const PlanSubject& subject, const PlanAnswer& answer, bool explain) {
  const ModelShape& shape = subject.model.spec.shape;
  const std::string& name =
      subject.model.spec.name.empty() ? shape.architecture : subject.model.spec.name;
  std::string out = fmt::format(
      "{}: {} tokens of context, {} of them answered | attention {} | KV {}/{} | -b {}\n{}{}\n\n",
      one_line(name), grouped_number(subject.request.n_ctx), grouped_number(subject.request.n_out),
      subject.attention, kv_codec_name(answer.problem.k_codec),
      kv_codec_name(answer.problem.v_codec), answer.problem.chunk_rows,
      answer.problem.has_device ? "" : "The CPU alone. ", subject.rates_text);
  out += tier_table(answer) + '\n' + places_text(answer) + '\n' + times_text(answer);
  if (explain) out += explanation(answer);
  for (const std::string& note : all_notes(subject, answer))
    out += fmt::format("note: {}\n", one_line(note));
  return out;
}

ordered_json plan_json(const PlanSubject& subject, const PlanAnswer& answer) {
  const planner::PlacementPlan& plan = answer.plan;
  const LayerCounts counts = layer_counts(answer);
  const KvShares shares = kv_shares(answer);
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
      {"touched_share", answer.problem.touched_share},
      {"type_k", kv_codec_name(answer.problem.k_codec)},
      {"type_v", kv_codec_name(answer.problem.v_codec)},
      {"chunk_rows", answer.problem.chunk_rows},
      {"layers", {{"hbm", counts.hbm}, {"dram", counts.dram}, {"file", counts.file}}},
      {"kv_share", {{"hbm", shares.hbm}, {"dram", shares.dram}, {"nvme", shares.file}}},
      {"busy_ms", {{"prefill", busy_json(plan.prompt)}, {"decode", busy_json(plan.token)}}},
      {"unrounded", {{"ttft_ms", plan.lp_ttft_ms}, {"tpot_ms", plan.lp_tpot_ms}}},
      {"notes", all_notes(subject, answer)}};
  for (const NamedTier& tier : tiers_of(answer)) json["tiers"][tier.key] = tier_json(tier.use);
  for (const PlanDual& dual : plan.duals)
    json["duals"].push_back({{"resource", dual.resource},
                             {"unit", dual.unit},
                             {"ms_per_unit", dual.tpot_ms},
                             {"ttft_ms_per_unit", dual.ttft_ms}});
  return json;
}

}  // namespace strata::cli
