// tools/eval/trace_methods.h - methods of retrieval as a whole on keys and queries of a real model:
// what building and estimating take of one thread, and what the choices find.
// Why beside scans of drawn tiles (tools/bench_index.cc): what a method is worth shows on keys that
// a model has made.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "index/method.h"
#include "tools/eval/attention_trace.h"

namespace strata::eval {

/// Seconds are the thread's own, medians over streams (and steps).
struct TraceFigures {
  index::MethodName method;
  std::string refused = {};    // why there are no figures: the method takes no such keys
  double build_s = 0;          // of all keys of a stream
  double estimate_s = 0;       // of all keys of a stream for the queries of a step
  double bytes_per_key = 0;    // that an estimate reads, a mean
  double found = 0;            // mean share of the exact weight, sinks and window left out
  std::optional<double> bias;  // of methods with a tail: as AttentionSummary::weight_bias
};

/// Every method that is listed, choosing within `share` of the positions.
std::vector<TraceFigures> measure_methods(const AttentionTrace& trace, const KernelTable& table,
                                          double share);

}  // namespace strata::eval
