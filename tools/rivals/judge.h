// tools/rivals/judge.h - a method judged on a trace: how much of the weight it finds, what error
// its outputs have, and what that reads. Figures mean what AttentionSummary's do
// (tools/eval/attention_metrics.h), so that methods of index/ can stand beside.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tools/rivals/trace_case.h"

namespace strata::rivals {

/// What a query head attends beside sinks, window and open positions.
struct Attended {
  std::vector<uint32_t> positions = {};   // candidates, ascending
  std::vector<float> log_counts = {};     // logarithm of how often each counts; empty: once
  std::optional<Partial> estimated = {};  // what stands for the others
};

/// All that a stream's index keeps and reads, also of sinks and window where it has them, for each
/// candidate.
struct IndexBytes {
  double kept = 0;
  double read = 0;          // in a step, by all queries of a KV head together
  bool reads_keys = false;  // `read` are keys in f16, those that are then attended among them
};

/// A method with its index of all streams of a TraceCase, which it borrows.
class Rival {
 public:
  virtual ~Rival() = default;
  /// One per query of the group. Steps of a stream come in order.
  virtual std::vector<Attended> attend(uint32_t stream, uint32_t step) = 0;
  virtual IndexBytes bytes() const = 0;  // after all steps
};

struct Verdict {
  double positions = 0;  // attended by a query head, sinks, window and open ones among them
  double read = 0;       // by any query head of a group: what memory gives
  // Of a stream's blocks, those that hold what a query head of the group attends: what a file
  // gives.
  double blocks_share = 0;
  IndexBytes bytes;
  double step_bytes = 0;  // of a KV head: K and V of `read` in f16, and what the index reads
  double found_mean = 0, found_p10 = 0;  // of the candidates' weight; p10 of the query heads
  double error_mean = 0, error_median = 0, error_p99 = 0;  // |o' - o| / |o|
};

Verdict judge(const TraceCase& on, Rival& rival);

}  // namespace strata::rivals
