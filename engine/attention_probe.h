// engine/attention_probe.h - hears what each KV head chose in a selected step, beside what exact
// attention would have given. For `eval` and tests.
#pragma once

#include <cstdint>
#include <span>

#include "engine/sequence.h"

namespace strata::engine {

/// One KV head of one full layer, for the rows of one sequence in a step. Queries are those of the
/// rows in order, each row's group together. Everything is borrowed for the call.
struct ProbedHead {
  const Sequence* sequence = nullptr;
  uint32_t layer = 0;
  uint32_t kv_head = 0;
  uint32_t n_queries = 0;            // rows * group
  std::span<const float> q;          // [n_queries, head_dim], RoPE applied, times the scale
  uint32_t n_blocks = 0;             // full blocks before the step
  std::span<const uint32_t> chosen;  // of these, ascending; blocks still open are attended, too
  std::span<const float> exact;      // [n_queries, head_dim], the output over all positions
  std::span<const float> selected;   // [n_queries, head_dim], the output over what was chosen
};

/// hear() is called on the thread that steps, once per full layer and KV head.
class AttentionProbe {
 public:
  virtual ~AttentionProbe() = default;
  virtual void hear(const ProbedHead& head) = 0;
  /// Whether a block counts as being in DRAM where residency has a say in what is chosen
  /// (index::Rule): for a probe that stands for a smaller memory. Called by any thread, and not
  /// while hear() is.
  virtual bool holds(uint32_t /*layer*/, uint32_t /*kv_head*/, uint32_t /*block*/) const {
    return true;
  }
};

}  // namespace strata::engine
