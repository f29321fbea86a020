#include "tools/cli/plan_words.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/byte_text.h"
#include "tools/cli/recompute_split.h"

namespace strata::cli {

using planner::PlanTier;
using planner::StepTime;

std::string model_name(const PlanSubject& subject) {
  const engine::ModelSpec& spec = subject.model.spec;
  return spec.name.empty() ? spec.shape.architecture : spec.name;
}

std::string time_text(double ms) {
  if (ms < 10) return fmt::format("{:.2f} ms", ms);
  if (ms < 1000) return fmt::format("{:.1f} ms", ms);
  if (ms < 120e3) return fmt::format("{:.1f} s", ms / 1e3);
  if (ms < 7200e3) return fmt::format("{:.0f} min", ms / 60e3);
  return fmt::format("{:.1f} h", ms / 3600e3);
}

uint64_t plan_bytes(double gb) {
  return static_cast<uint64_t>(std::llround(std::max(0.0, gb) * 1e9));
}

std::string size_text(double gb) { return engine::bytes_text(plan_bytes(gb)); }

std::vector<NamedTier> tiers_of(const PlanAnswer& answer) {
  std::vector<NamedTier> tiers;
  if (answer.problem.has_device) tiers.push_back({"HBM", "hbm", answer.plan.hbm});
  tiers.push_back({"DRAM", "dram", answer.plan.dram});
  tiers.push_back({"NVMe", "nvme", answer.plan.nvme});
  return tiers;
}

uint64_t LayerCounts::n_split() const {
  uint64_t n = 0;
  for (const SplitLayers& of : split) n += of.layers.size();
  return n;
}

uint64_t LayerCounts::n_split_to_file() const {
  uint64_t n = 0;
  for (const SplitLayers& of : split)
    if (std::ranges::count(of.tiers, PlanTier::kNvme) > 0) n += of.layers.size();
  return n;
}

LayerCounts layer_counts(const planner::PlacementProblem& problem,
                         const planner::LayerPlacement& layers) {
  LayerCounts counts;
  counts.is_hbm_alone = layers.is_hbm_alone;
  for (const PieceSet& pieces : planner::cpu_products(problem, layers))
    counts.on_cpu += pieces.is_any() ? 1u : 0u;
  const auto places = planner::weight_tiers(problem, layers);
  for (uint32_t layer = 0; layer < places.size(); ++layer) {
    const planner::PieceTiers& tiers = places[layer];
    if (tiers[0] == tiers[1]) {
      ++(tiers[0] == PlanTier::kHbm    ? counts.hbm
         : tiers[0] == PlanTier::kDram ? counts.dram
                                       : counts.file);
      continue;
    }
    const auto found = std::ranges::find(counts.split, tiers, &SplitLayers::tiers);
    SplitLayers& of =
        found != counts.split.end() ? *found : counts.split.emplace_back(SplitLayers{tiers, {}});
    of.layers.push_back(layer);
  }
  return counts;
}

nlohmann::ordered_json layer_counts_json(const LayerCounts& counts) {
  nlohmann::ordered_json json = {{"hbm", counts.hbm}, {"dram", counts.dram}, {"file", counts.file}};
  if (counts.on_cpu > 0) json["on_cpu"] = counts.on_cpu;
  if (counts.is_hbm_alone) json["hbm_alone"] = true;
  constexpr const char* kPlaces[] = {"hbm", "dram", "file"};
  for (const SplitLayers& of : counts.split)
    json["split"].push_back({{"attention", kPlaces[static_cast<size_t>(of.tiers[0])]},
                             {"ffn", kPlaces[static_cast<size_t>(of.tiers[1])]},
                             {"layers", of.layers}});
  return json;
}

std::string split_text(const SplitLayers& split, const char* hbm) {
  const char* places[] = {hbm, "in DRAM", "read from the model file in every step"};
  return fmt::format("with attention {} and FFN {}", places[static_cast<size_t>(split.tiers[0])],
                     places[static_cast<size_t>(split.tiers[1])]);
}

KvShares kv_shares(const planner::PlacementProblem& problem,
                   const planner::LayerPlacement& layers) {
  const planner::PlacedGb gb = placed_gb(problem, layers);
  const double all = problem.kv_gb();
  KvShares shares{gb.hbm_kv / all, (gb.dram_kv - gb.hbm_kv) / all, 0};
  // Where nothing spills, what the others lack of 1 is a rounding error.
  if (layers.is_spilling(problem)) shares.file = std::max(0.0, 1 - shares.hbm - shares.dram);
  return shares;
}

std::string busy_text(const StepTime& time) {
  std::string text;
  for (size_t i = 0; i < planner::kPlanParts; ++i)
    if (time.busy_ms[i] > 0)
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ",
                          plan_part_name(static_cast<planner::PlanPart>(i)),
                          time_text(time.busy_ms[i]));
  return text;
}

std::string limit_text(const StepTime& time) {
  const double busy = time.busy_ms[static_cast<size_t>(time.binding())];
  return fmt::format("limited by {} ({:.0f} % of the time)", plan_part_name(time.binding()),
                     100 * std::min(1.0, busy / time.ms));
}

DualWords dual_words(const planner::PlanDual& dual, const PlanAnswer& answer) {
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
  return {what(), changes.empty() ? "nothing" : changes};
}

RecomputeWords recompute_words(const ModelShape& shape, const planner::PlacementProblem& problem) {
  const auto full = std::ranges::find_if(problem.groups, &planner::LayerGroup::is_full);
  const planner::LayerGroup& group = full == problem.groups.end() ? problem.groups[0] : *full;
  const uint32_t n_kv_heads = shape.layers[group.layers[0]].n_kv_heads;
  const double rate = problem.has_device ? problem.rates.link_in : problem.rates.nvme_read;
  const char* from = problem.has_device ? "the link" : "the disk";
  const auto row_ms = [&](const planner::LayerGroup& of) {
    return problem.has_device ? planner::transfer_ms(of.gemm_tflop, problem.rates.gpu_gemm_tflops)
                              : of.cpu_gemm_ms;
  };
  RecomputeWords words;
  const RecomputeCost cost{.d_model = shape.d_model,
                           .n_kv_heads = n_kv_heads,
                           .head_dim = shape.head_dim,
                           .kv_bytes = group.kv_gb * 1e9};
  words.hidden_bytes = cost.hidden_bytes();
  words.kv_bytes = cost.kv_bytes;
  const double fewer_bytes = words.kv_bytes - words.hidden_bytes;
  std::string verdict = "cannot pay";
  if (fewer_bytes > 0) {
    const double wanted = cost.flop() / fewer_bytes;
    const double gflop_per_s = 1e6 * group.gemm_tflop / row_ms(group);  // of TFLOP/ms
    const bool is_known = rate > 0 && row_ms(group) > 0;
    words.could_win = is_known && gflop_per_s / rate > wanted;
    verdict = fmt::format("pay from {:.0f} FLOP on for a byte of {}; ", wanted, from);
    if (is_known) {
      words.split_gain =
          best_split(
              cost, {.gbytes_per_s = rate, .gflop_per_s = gflop_per_s, .from = from, .made_by = ""})
              .gain;
      verdict += fmt::format(
          "this machine makes {:.0f}: {}, and making a part while the rest is fetched gains {:.1f} "
          "% at most",
          gflop_per_s / rate,
          words.could_win ? "they would pay, which this engine does not do" : "they do not pay",
          100 * words.split_gain);
    } else {
      verdict += "what this machine makes is not known";
    }
  }
  double anew_ms = 0, gb = 0;
  for (const planner::LayerGroup& of : problem.groups) {
    anew_ms += of.n_layers() * row_ms(of);
    gb += of.n_layers() * of.kv_gb;
  }
  words.text = fmt::format(
      "recomputing K and V is off: hidden states are {:.0f} B a position and layer (4 * d_model "
      "{}, in f32 for the same bits) and K and V {:.0f} B (n_kv_heads {} * head_dim {}), so they "
      "{}; from tokens a position takes {} of arithmetic, its K and V {} of {}",
      words.hidden_bytes, shape.d_model, words.kv_bytes, n_kv_heads, shape.head_dim, verdict,
      time_text(anew_ms), time_text(planner::transfer_ms(gb, rate)), from);
  return words;
}

}  // namespace strata::cli
