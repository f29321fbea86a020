// tools/rivals/trace_case.h - what methods outside index/ are judged on: the last steps of a
// recorded trace, with exact scores and outputs at hand.
// Why: index/selector.h shows a method keys and values of full blocks and takes weights of whole
// blocks back. Methods of papers that want queries ahead of time, choose single positions or weigh
// what they sampled do not fit; whether they find more decides whether they should.
//
// An index knows the blocks that are full before the first judged step. Of these the first and the
// last four are sinks and window as in index/choose.h, the others candidates; what comes later
// is open. Sinks, window and open positions are always attended.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tools/eval/attention_trace.h"

namespace strata::rivals {

/// Sums of attention over some positions, not yet divided.
struct Partial {
  std::vector<double> o;  // [head_dim]
  double m = 0;           // what exponents are relative to
  double l = 0;
};

float dot(const float* a, const float* b, uint32_t n);

/// Borrows the trace. Figures of a query head take 4 bytes per position and judged step.
class TraceCase {
 public:
  static constexpr uint32_t kSinkBlocks = 1, kWindowBlocks = 4;

  /// Errors: kUsage where the trace has fewer steps, or no candidates.
  TraceCase(const eval::AttentionTrace& trace, uint32_t n_judged);

  const eval::AttentionTrace& trace() const { return trace_; }
  uint32_t n_judged() const { return n_judged_; }
  uint32_t n_streams() const { return trace_.n_streams(); }
  uint32_t group() const { return trace_.group; }
  uint32_t head_dim() const { return trace_.head_dim; }
  uint32_t n_blocks() const { return n_blocks_; }  // full before the first judged step
  uint32_t first() const { return kSinkBlocks * kBlockPositions; }
  uint32_t end() const { return (n_blocks_ - kWindowBlocks) * kBlockPositions; }  // of candidates
  uint32_t n_candidates() const { return end() - first(); }
  uint32_t first_judged() const { return trace_.n_positions - n_judged_; }  // a position
  uint32_t pos(uint32_t step) const { return first_judged() + step; }
  uint32_t n_always(uint32_t step) const { return pos(step) + 1 - n_candidates(); }
  /// Candidates that a budget of positions leaves room for in a step.
  uint32_t room(uint32_t budget, uint32_t step) const;

  /// [n_positions, head_dim]
  const float* key(uint32_t stream, uint32_t pos) const {
    return keys_[stream].data() + uint64_t{pos} * head_dim();
  }
  const float* value(uint32_t stream, uint32_t pos) const {
    return values_[stream].data() + uint64_t{pos} * head_dim();
  }
  /// Steps are judged ones. [group, head_dim]
  std::vector<float> query(uint32_t stream, uint32_t step) const {
    return trace_.query(stream, trace_.n_steps - n_judged_ + step);
  }
  /// q . k of positions [0, pos(step)].
  std::span<const float> scores(uint32_t stream, uint32_t step, uint32_t query) const {
    return exact_[query_idx(stream, step, query)].scores;
  }
  /// Attention to what is always attended, and to the candidates.
  const Partial& always(uint32_t stream, uint32_t step, uint32_t query) const {
    return exact_[query_idx(stream, step, query)].always;
  }
  const Partial& candidates(uint32_t stream, uint32_t step, uint32_t query) const {
    return exact_[query_idx(stream, step, query)].candidates;
  }
  /// Attention to `positions`; with log_counts [n] each counts exp of that many times.
  Partial attend(uint32_t stream, uint32_t step, uint32_t query,
                 std::span<const uint32_t> positions, std::span<const float> log_counts = {}) const;

 private:
  struct Exact {
    std::vector<float> scores;
    Partial always, candidates;
  };
  uint64_t query_idx(uint32_t stream, uint32_t step, uint32_t query) const {
    return (uint64_t{stream} * n_judged_ + step) * group() + query;
  }
  void weigh(uint32_t stream, uint32_t step);

  const eval::AttentionTrace& trace_;
  uint32_t n_judged_, n_blocks_;
  std::vector<std::vector<float>> keys_, values_;  // per stream
  std::vector<Exact> exact_;                       // per stream, step, query
};

/// `part` joins `whole`.
void merge(Partial& whole, const Partial& part);

}  // namespace strata::rivals
