// tools/cli/bench_index.h - what `bench --attn METHOD` needs beside a run: an index of blocks that
// no walk computed, the answer check of selected steps, and what an index costs.
#pragma once

#include <cstdint>

#include "engine/engine.h"

namespace strata::cli {

/// What taking the positions of a prompt into an index costs, and what it holds.
struct IndexCost {
  uint64_t n_positions = 0;  // observed: of blocks that the prompt filled
  double observe_s = 0;      // processor time of all threads
  double walk_s = 0;         // processor time of the steps that read the prompt, index included
  double bytes_per_position = 0;  // of all rows and what they refer to

  /// Of the reading without an index.
  double share_of_walk() const { return walk_s > observe_s ? observe_s / (walk_s - observe_s) : 0; }
};

/// Of all threads of the process, since it began.
double process_cpu_s();

/// Takes the full blocks of a sequence that has an index into it. Errors: kCancelled;
/// those of KvCache::hold_extent.
void index_blocks(engine::Engine& engine, engine::Sequence& sequence);

/// Makes the index of `sequence`, which went on from `start`, once more from where `start` ends, to
/// see what that takes; the sequence has no index afterwards. walk_s: see IndexCost.
IndexCost measure_index(engine::Engine& engine, const engine::Sequence& start,
                        engine::Sequence& sequence, double walk_s);

/// Walks `token` behind `start`: within a budget of everything, beside exact attention; within the
/// engine's budget, by all threads beside one. The same bits, or Error(kIo).
void check_selected_answer(engine::Engine& engine, const engine::Sequence& start, int32_t token);

}  // namespace strata::cli
