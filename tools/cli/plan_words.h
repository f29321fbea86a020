// tools/cli/plan_words.h - times, shares and limits of a plan in words, for every form of output.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "tools/cli/plan_answer.h"

namespace strata::cli {

/// As the file calls it, else its architecture; not escaped.
std::string model_name(const PlanSubject& subject);

/// "8.61 ms", "252.6 ms", "7 min".
std::string time_text(double ms);

/// A plan counts in decimal gigabytes; a share that rounding made negative is none.
uint64_t plan_bytes(double gb);
/// "1.5 GiB".
std::string size_text(double gb);

/// A tier of a plan; HBM only where there is a device.
struct NamedTier {
  const char* name;
  const char* key;
  const planner::TierUse& use;
};
std::vector<NamedTier> tiers_of(const PlanAnswer& answer);

/// Layers whose pieces live apart, alike.
struct SplitLayers {
  planner::PieceTiers tiers;
  std::vector<uint32_t> layers;
};
struct LayerCounts {
  uint64_t hbm = 0, dram = 0, file = 0;  // whole
  // Beside a card: those of which the CPU computes a token's products with what is in DRAM.
  uint64_t on_cpu = 0;
  bool is_hbm_alone = false;  // DRAM has no copy of what is in HBM
  std::vector<SplitLayers> split;
  uint64_t n_split() const;
  uint64_t n_split_to_file() const;  // of which a piece is read from it
  uint64_t all() const { return hbm + dram + file + n_split(); }
};
LayerCounts layer_counts(const planner::PlacementProblem& problem,
                         const planner::LayerPlacement& layers);
/// {"hbm": 0, "dram": 12, "file": 4}; where of some layers the CPU computes what is in DRAM, also
/// "on_cpu"; where DRAM has no copy of what is in HBM, also "hbm_alone": true; where there are
/// split layers also "split", a list of {"attention": "dram", "ffn": "file", "layers": [0, 1]}.
nlohmann::ordered_json layer_counts_json(const LayerCounts& counts);
/// "with attention in DRAM and FFN read from the model file in every step".
std::string split_text(const SplitLayers& split, const char* hbm);

struct KvShares {
  double hbm = 0, dram = 0, file = 0;  // sum 1, as far as doubles do; 0 is exact
};
KvShares kv_shares(const planner::PlacementProblem& problem, const planner::LayerPlacement& layers);

/// "CPU 12.1 ms, NVMe 30.4 ms": the parts that are at work.
std::string busy_text(const planner::StepTime& time);
/// "limited by DRAM (100 % of the time)".
std::string limit_text(const planner::StepTime& time);
/// "+1 GiB of HBM" and what that brings: "-26.8 ms per token", or "nothing".
struct DualWords {
  std::string what, brings;
};
DualWords dual_words(const planner::PlanDual& dual, const PlanAnswer& answer);

/// Whether K and V could be computed again rather than kept, and why that is off, with its figures.
struct RecomputeWords {
  // Hidden states are smaller than K and V, and projecting them takes less than those bytes
  // (docs/adr/0004-no-hidden-states.md).
  bool could_win = false;
  // Of the time that K and V are fetched in, where a part of them is made anew meanwhile
  // (tools/cli/recompute_split.h).
  double split_gain = 0;
  double hidden_bytes = 0, kv_bytes = 0;  // of a position of a layer
  std::string text;
};
RecomputeWords recompute_words(const ModelShape& shape, const planner::PlacementProblem& problem);

}  // namespace strata::cli
