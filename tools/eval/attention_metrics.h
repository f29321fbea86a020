// tools/eval/attention_metrics.h - what a choice of blocks misses, KV head by KV head: weight,
// output, and how much of what was fetched was needed. Exact weights come from copies of the keys,
// so a step costs as much as exact attention once more.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/host_memory.h"
#include "engine/attention_probe.h"
#include "engine/kv_cache.h"
#include "index/choose.h"
#include "tools/eval/missing_metrics.h"
#include "tools/eval/summary.h"

namespace strata::eval {

/// What one full layer's choices miss; means over its query heads and all steps.
struct LayerFigures {
  uint32_t layer = 0;
  double mass = 0, error = 0;  // as AttentionSummary's
};

/// Candidates are the full blocks that are neither sinks nor window.
struct AttentionSummary {
  // Share of the candidates' exact weight that lay on chosen ones. Mean over all; p10 and least of
  // the query heads of all layers, each the mean of its steps.
  double mass_mean = 0, mass_p10 = 0, mass_least = 0;
  double error_median = 0, error_p99 = 0;  // |o_chosen - o| / |o| of a query head
  double set_recall = 0;                   // of the best choice of the same size
  double reuse = 0;                        // of the candidates chosen, those chosen a step before
  // Blocks chosen over the fewest that hold 99 % of the weight of all full blocks.
  double fetched_over_useful = 0;
  // Calibration: ln of the weight that attention counts, chosen and estimated, over the exact one,
  // of all full blocks; 0 = nothing is missing or doubled. Mean over all.
  double weight_bias = 0;
  std::vector<LayerFigures> layers = {};  // of those that select
};

/// Sums, so that several texts make one summary.
class AttentionTally {
 public:
  void add(const AttentionTally& other);
  AttentionSummary summary() const;

 private:
  friend class AttentionMetrics;
  struct Mean {
    double sum = 0;
    uint64_t n = 0;
    void put(double value) {
      sum += value;
      ++n;
    }
    void add(const Mean& other) {
      sum += other.sum;
      n += other.n;
    }
    double value() const { return n == 0 ? 0 : sum / static_cast<double>(n); }
  };
  static void add_each(std::vector<Mean>& sums, const std::vector<Mean>& others);

  std::vector<Mean> mass_;  // per query head of each layer
  std::vector<double> errors_;
  std::vector<Mean> layer_mass_, layer_errors_;  // per layer
  Mean set_recall_, reuse_, weight_bias_;
  uint64_t chosen_blocks_ = 0, useful_blocks_ = 0;
};

/// Hears the steps of one sequence, whose K and V are in `cache` and in DRAM.
class AttentionMetrics : public engine::AttentionProbe {
 public:
  /// `oracle` is empty and of the sequence's streams; `rule` is what the walk selects by. Where
  /// there are `held_shares`, memory is taken to hold so much of K and V (MissingMetrics).
  AttentionMetrics(const engine::KvCache& cache, std::unique_ptr<index::Selector> oracle,
                   const index::Rule& rule, std::span<const double> held_shares = {});
  void hear(const engine::ProbedHead& head) override;
  bool holds(uint32_t layer, uint32_t kv_head, uint32_t block) const override;
  const AttentionTally& tally() const { return tally_; }
  std::optional<MissingTally> missing() const;  // where there is a held share

 private:
  void take_in(const engine::Sequence& sequence, uint32_t n_blocks);
  void weigh(const engine::ProbedHead& head);
  void tally_mass(const engine::ProbedHead& head);
  void tally_error(const engine::ProbedHead& head);
  void tally_choice(const engine::ProbedHead& head);
  void tally_bias(const engine::ProbedHead& head);
  void estimate_left_out(const engine::ProbedHead& head);
  bool is_candidate(uint32_t block) const { return block >= first_ && block < end_; }

  const engine::KvCache& cache_;
  std::unique_ptr<index::Selector> oracle_;
  index::Rule rule_;
  AttentionTally tally_;
  std::optional<MissingMetrics> missing_;
  std::vector<uint32_t> first_query_;        // [n_layers], among tally_.mass_
  uint32_t first_ = 0, end_ = 0;             // candidates of the head at hand
  std::vector<float> weights_;               // [n_queries, n_blocks]: logarithms, then shares
  std::vector<double> log_totals_;           // [n_queries], of the logarithms
  std::vector<double> pooled_;               // [n_blocks], summed over the queries
  std::vector<double> left_out_;             // [n_queries], estimated weight, logarithms
  HostMemory scratch_;                       // of estimates, kept from head to head
  std::vector<float> estimates_;             // [n_queries][whole extents of blocks]
  std::vector<uint32_t> order_;              // scratch
  std::vector<std::vector<uint32_t>> last_;  // per stream, the candidates chosen a step before
};

}  // namespace strata::eval
