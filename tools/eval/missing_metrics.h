// tools/eval/missing_metrics.h - what choices would read from a file if memory held only part of K
// and V, and what could have said so earlier.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/attention_probe.h"
#include "engine/kv_cache.h"
#include "tools/eval/held_blocks.h"

namespace strata::eval {

/// Sums over steps, layers and KV heads, the first step left out: it fills the memory.
struct MissingTally {
  uint64_t steps = 0;
  uint64_t waits = 0;  // layers that lacked some block
  uint64_t chosen = 0;
  uint64_t missing = 0;          // of these, in the file alone
  uint64_t in_last = 0;          // of these, those that the KV head chose a step before
  uint64_t in_layer_before = 0;  // that the KV head of its number in the full layer before chose
  uint64_t runners_up = 0;  // that came next to what the KV head chose a step before, as many again

  void add(const MissingTally& other);
  double per_step(uint64_t count) const;
  double of_missing(uint64_t count) const;
};

/// Hears the steps of one sequence.
class MissingMetrics {
 public:
  /// Memory holds `share` of the blocks of the first step.
  MissingMetrics(const engine::KvCache& cache, double share);
  bool holds(uint32_t layer, uint32_t kv_head, uint32_t block) const;
  /// `pooled` [n_blocks]: the head's exact weights, pooled over its queries.
  void hear(const engine::ProbedHead& head, std::span<const double> pooled);
  const MissingTally& tally() const { return tally_; }

 private:
  void begin_step(uint32_t n_blocks);
  void begin_layer(uint32_t layer, uint32_t n_blocks);
  void note(const engine::ProbedHead& head, std::span<const double> pooled);

  const engine::KvCache& cache_;
  const double share_;
  std::optional<HeldBlocks> held_;  // from the first step on
  MissingTally tally_;
  uint32_t n_blocks_ = 0;                   // of the step at hand
  std::optional<uint32_t> layer_, before_;  // at hand, and the full one before it in the step
  bool is_counted_ = false, has_wait_ = false;
  // Per stream, ascending: what it chose last, and what came next by weight.
  std::vector<std::vector<uint32_t>> last_, runners_up_;
};

}  // namespace strata::eval
