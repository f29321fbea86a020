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

/// Of the chosen blocks, those that a memory of one size lacked.
struct HeldPoint {
  double share = 0;              // of K and V that it holds
  uint64_t missing = 0;          // where what was unused for longest leaves, as in the store
  uint64_t missing_weighed = 0;  // where the block of the least weight does
};

/// Sums over steps, layers and KV heads, the first step left out: it fills the memory.
struct MissingTally {
  uint64_t steps = 0;
  uint64_t waits = 0;  // layers that lacked some block
  uint64_t chosen = 0;
  uint64_t missing = 0;          // of these, in the file alone
  uint64_t in_last = 0;          // of these, those that the KV head chose a step before
  uint64_t in_layer_before = 0;  // that the KV head of its number in the full layer before chose
  uint64_t runners_up = 0;  // that came next to what the KV head chose a step before, as many again
  std::vector<HeldPoint> points;  // one for each size of memory; the first is that of `missing`

  void add(const MissingTally& other);
  double per_step(uint64_t count) const;
  double of_missing(uint64_t count) const;
  /// Share of the chosen blocks that were found in memory.
  double hit_rate(uint64_t n_missing) const;
};

/// Hears the steps of one sequence.
class MissingMetrics {
 public:
  /// Memory holds a share of the blocks of the first step. All `shares` see the same choices, which
  /// only the first has a say in.
  MissingMetrics(const engine::KvCache& cache, std::span<const double> shares);
  bool holds(uint32_t layer, uint32_t kv_head, uint32_t block) const;
  /// `pooled` [n_blocks]: the head's exact weights, pooled over its queries.
  void hear(const engine::ProbedHead& head, std::span<const double> pooled);
  const MissingTally& tally() const { return tally_; }

 private:
  struct Memory {
    HeldBlocks recent;
    WeighedBlocks weighed;
  };
  void begin_step(uint32_t n_blocks);
  void begin_layer(uint32_t layer, uint32_t n_blocks);
  void note(const engine::ProbedHead& head, std::span<const double> pooled);

  const engine::KvCache& cache_;
  std::vector<Memory> held_;  // from the first step on; as MissingTally::points
  MissingTally tally_;
  uint32_t n_blocks_ = 0;                   // of the step at hand
  std::optional<uint32_t> layer_, before_;  // at hand, and the full one before it in the step
  bool is_counted_ = false, has_wait_ = false;
  // Per stream, ascending: what it chose last, and what came next by weight.
  std::vector<std::vector<uint32_t>> last_, runners_up_;
};

}  // namespace strata::eval
