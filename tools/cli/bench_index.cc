#include "tools/cli/bench_index.h"

#include <time.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "base/thread_pool.h"
#include "tools/cli/bench_runner.h"

namespace strata::cli {
namespace {

double seconds_of(clockid_t clock) {
  timespec at{};
  (void)clock_gettime(clock, &at);
  return static_cast<double>(at.tv_sec) + static_cast<double>(at.tv_nsec) * 1e-9;
}

/// Observes the full blocks of `sequence` from first_block on. Returns the processor time.
double observe_blocks(engine::Engine& engine, const engine::Sequence& sequence,
                      uint32_t first_block, index::Selector& index) {
  engine::KvCache& cache = engine.cache();
  const ModelShape& shape = cache.shape();
  const uint32_t end = sequence.n_pos() / kBlockPositions;
  std::vector<double> worker_s(engine.pool().size());
  for (uint32_t first = first_block; first < end;) {
    check_bench_cancelled(engine.walk().cancel());
    const uint32_t n = std::min(end - first, kExtentBlocks - first % kExtentBlocks);
    for (uint32_t layer = 0; layer < shape.n_layers; ++layer) {
      if (shape.layers[layer].window > 0) continue;
      const engine::ExtentBytes held =
          cache.hold_extent(sequence, layer, first * kBlockPositions, n);
      engine.pool().for_each(
          shape.layers[layer].n_kv_heads, 1, [&](uint64_t from, uint64_t to, uint32_t worker) {
            const double begin_s = seconds_of(CLOCK_THREAD_CPUTIME_ID);
            for (uint64_t head = from; head < to; ++head)
              for (uint32_t i = 0; i < n; ++i)
                index.observe(cache.index_stream(layer, static_cast<uint32_t>(head)), first + i,
                              held.blocks[head * n + i]);
            worker_s[worker] += seconds_of(CLOCK_THREAD_CPUTIME_ID) - begin_s;
          });
      cache.release_extent(held);
    }
    first += n;
  }
  double total_s = 0;
  for (const double s : worker_s) total_s += s;
  return total_s;
}

}  // namespace

double process_cpu_s() { return seconds_of(CLOCK_PROCESS_CPUTIME_ID); }

void index_blocks(engine::Engine& engine, engine::Sequence& sequence) {
  observe_blocks(engine, sequence, sequence.n_indexed(), *sequence.index());
  sequence.set_n_indexed(sequence.n_pos() / kBlockPositions);
}

IndexCost measure_index(engine::Engine& engine, const engine::Sequence& start,
                        engine::Sequence& sequence, double walk_s) {
  sequence.drop_index();  // first: there is room for one more only
  const auto index = start.index()->fork();
  const uint32_t first = start.n_pos() / kBlockPositions;
  const uint32_t end = sequence.n_pos() / kBlockPositions;
  index->open_blocks(end);
  IndexCost cost{.n_positions = uint64_t{end - first} * kBlockPositions, .walk_s = walk_s};
  cost.observe_s = observe_blocks(engine, sequence, first, *index);
  if (end > 0)
    cost.bytes_per_position =
        static_cast<double>(index->held_bytes(end) * engine.cache().n_index_streams()) /
        (static_cast<double>(end) * kBlockPositions);
  return cost;
}

void check_selected_answer(engine::Engine& engine, const engine::Sequence& start, int32_t token) {
  using engine::Attention;
  const auto logits = [&](engine::Walk& walk, Attention attention) {
    engine::Sequence sequence = start.fork();
    const engine::StepRow row{&sequence, token, true};
    walk.step({&row, 1}, attention);
    return std::vector<float>(walk.logits(0).begin(), walk.logits(0).end());
  };
  engine::Walk& walk = engine.walk();
  const index::Rule rule = engine.options().selection;
  const uint64_t n_ctx = engine.context().n_ctx;
  index::Rule everything = rule;
  everything.budget = {index::Budget::Kind::kShare, 1.0};
  walk.select_by(everything, n_ctx);
  // A device cuts what it attends by its length, and chooses by queries of its own.
  const auto check = engine.device() != nullptr ? check_near_logits : check_same_logits;
  check(logits(walk, Attention::kSelected), "with a budget of everything",
        logits(walk, Attention::kExact), "attended exactly");
  walk.select_by(rule, n_ctx);
  ThreadPool one(1);
  engine::Walk alone(engine.model(), engine.cache(), engine.kernels(), one, 1);
  alone.select_by(rule, n_ctx);
  check(logits(walk, Attention::kSelected), "with selected blocks",
        logits(alone, Attention::kSelected), "by one thread");
}

}  // namespace strata::cli
