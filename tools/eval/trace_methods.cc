#include "tools/eval/trace_methods.h"

#include <time.h>

#include <algorithm>
#include <cmath>

#include "base/checked_math.h"
#include "base/error.h"
#include "base/host_memory.h"
#include "index/choose.h"
#include "tools/eval/summary.h"

namespace strata::eval {
namespace {

/// Of this thread: what a busy neighbour on the core does not lengthen.
double own_seconds() {
  timespec now{};
  (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

/// A method's index of all streams of a trace.
class TraceIndex {
 public:
  TraceIndex(const AttentionTrace& trace, index::Method method, const KernelTable& table)
      : trace_(trace),
        source_(method,
                {.layout = trace.layout(),
                 .n_streams = trace.n_streams(),
                 .n_blocks = trace.n_blocks()},
                table),
        selector_(source_.make()),
        scratch_(HostMemory::reserve(selector_->scratch_floats(trace.group) * sizeof(float))),
        stride_(round_up(trace.n_blocks(), kExtentBlocks)),
        weights_(trace.group * stride_) {
    selector_->open_blocks(trace.n_blocks());
  }

  /// Seconds.
  double observe(uint32_t stream) {
    const double start = own_seconds();
    for (uint32_t block = 0; block < trace_.n_blocks(); ++block)
      selector_->observe(stream, block, trace_.block(stream, block));
    return own_seconds() - start;
  }
  /// Seconds in which the blocks of a stream are weighed for a step's queries; leaves weights().
  double estimate(uint32_t stream, uint32_t step) {
    const std::vector<float> q = trace_.query(stream, step);
    const double start = own_seconds();
    selector_->estimate({.stream = stream,
                         .q = q.data(),
                         .n_queries = trace_.group,
                         .end_block = trace_.n_blocks(),
                         .scratch = reinterpret_cast<float*>(scratch_.data()),
                         .log_weights = weights_.data(),
                         .weight_stride = stride_});
    return own_seconds() - start;
  }
  /// Bytes of rows that this reads.
  double read_bytes(uint32_t stream, uint32_t step) const {
    const std::vector<float> q = trace_.query(stream, step);
    return static_cast<double>(
        selector_->estimate_bytes(trace_.n_blocks(), q.data(), trace_.group));
  }
  const index::Selector& selector() const { return *selector_; }
  std::span<const float> weights() const { return weights_; }  // [group, stride()], logarithms
  uint64_t stride() const { return stride_; }

 private:
  const AttentionTrace& trace_;
  index::SelectorSource source_;
  std::unique_ptr<index::Selector> selector_;
  HostMemory scratch_;
  uint64_t stride_;
  std::vector<float> weights_;
};

/// Sums over the queries of all steps.
struct Tally {
  double found = 0, bias = 0;
  uint64_t n = 0;
};

/// Adds what a choice by estimates holds of the exact weight, and what chosen and estimated weights
/// make together beside all of it.
void tally_step(const TraceIndex& estimated, const TraceIndex& exact, uint32_t n_queries,
                uint32_t n_blocks, index::Chooser& chooser, Tally& tally) {
  const index::Rule& rule = chooser.rule();
  const auto& choice = chooser.choose({.log_weights = estimated.weights(),
                                       .weight_stride = estimated.stride(),
                                       .n_queries = n_queries,
                                       .n_blocks = n_blocks,
                                       .n_positions = n_blocks * kBlockPositions});
  const auto is_candidate = [&](uint32_t block) {
    return block >= rule.n_sink_blocks && block + rule.n_window_blocks < n_blocks;
  };
  for (uint32_t query = 0; query < n_queries; ++query, ++tally.n) {
    const float* truth = exact.weights().data() + query * exact.stride();
    const float* estimates = estimated.weights().data() + query * estimated.stride();
    const double top = *std::max_element(truth, truth + n_blocks);
    double all = 0, chosen = 0, whole = 0, counted = 0;
    auto next = choice.blocks.begin();
    for (uint32_t block = 0; block < n_blocks; ++block) {
      const double weight = std::exp(truth[block] - top);
      const bool is_chosen = next != choice.blocks.end() && *next == block;
      if (is_chosen) ++next;
      whole += weight;
      counted += is_chosen ? weight : std::exp(estimates[block] - top);
      if (!is_candidate(block)) continue;
      all += weight;
      chosen += is_chosen ? weight : 0;
    }
    tally.found += all > 0 ? chosen / all : 1;
    tally.bias += std::log(counted / whole);
  }
}

TraceFigures measure(const AttentionTrace& trace, const index::MethodName& method,
                     const KernelTable& table, TraceIndex& exact, index::Chooser& chooser) {
  TraceFigures figures{.method = method, .bias = std::nullopt};
  try {
    index::check_supported(method.method, trace.layout());
  } catch (const Error& error) {
    figures.refused = error.what();
    return figures;
  }
  TraceIndex of(trace, method.method, table);
  std::vector<double> building, scoring;
  double read_bytes = 0;
  Tally tally;
  for (uint32_t stream = 0; stream < trace.n_streams(); ++stream) {
    building.push_back(of.observe(stream));
    for (uint32_t step = 0; step < trace.n_steps; ++step) {
      scoring.push_back(of.estimate(stream, step));
      read_bytes += of.read_bytes(stream, step);
      exact.estimate(stream, step);
      const uint32_t pos = trace.n_positions - trace.n_steps + step;
      tally_step(of, exact, trace.group, pos / kBlockPositions, chooser, tally);
    }
  }
  const auto n = static_cast<double>(tally.n);
  const double n_keys = static_cast<double>(trace.n_positions) * trace.n_streams() * trace.n_steps;
  figures.build_s = summarise(std::move(building)).median;
  figures.estimate_s = summarise(std::move(scoring)).median;
  figures.bytes_per_key = read_bytes / n_keys;
  figures.found = tally.found / n;
  if (of.selector().has_tail()) figures.bias = tally.bias / n;
  return figures;
}

}  // namespace

std::vector<TraceFigures> measure_methods(const AttentionTrace& trace, const KernelTable& table,
                                          double share) {
  index::Chooser chooser(table, {.budget = {index::Budget::Kind::kShare, share}});
  TraceIndex exact(trace, index::Method::kOracle, table);
  for (uint32_t stream = 0; stream < trace.n_streams(); ++stream) exact.observe(stream);
  std::vector<TraceFigures> all;
  for (const auto& method : index::method_names())
    all.push_back(measure(trace, method, table, exact, chooser));
  return all;
}

}  // namespace strata::eval
