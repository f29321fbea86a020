// engine/walk_select.h - what a walk keeps for selected steps. Included by engine/walk*.cc only.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "base/checked_math.h"
#include "engine/walk_state.h"
#include "index/choose.h"

namespace strata::engine {

/// Floats of estimated weights that a step holds at most: 32 MiB. A longer context takes fewer rows
/// per selected step.
inline constexpr uint64_t kWeightFloatsMax = uint64_t{8} << 20;
inline constexpr uint32_t kResidentBits = 64;  // of a word of ChooseArgs::resident

struct SelectionSizes {
  uint32_t stride = 0;        // floats between the weights of two queries: whole extents of n_ctx
  uint32_t max_kv_heads = 0;  // of a full layer
  uint32_t max_group_heads = 0;  // query heads per KV head
  uint32_t max_rows = 1;         // of a run that are scored one by one; means of one at most
  /// Neighbouring rows that share a choice, at most. A tail is estimated for every row, of weights
  /// of its own, so that means would save nothing.
  uint32_t run_rows(bool has_tail) const { return has_tail ? max_rows : kRunRows; }
  /// Neighbouring rows of a run of n_rows whose queries are scored as one, by their mean: eight
  /// neighbours (more where the context is so long that fewer rows fit).
  uint32_t mean_rows(uint32_t n_rows) const {
    return n_rows <= max_rows
               ? 1
               : std::max(kMeanRows, static_cast<uint32_t>(div_up(n_rows, max_rows)));
  }
  uint64_t row_floats() const { return uint64_t{stride} * max_kv_heads * max_group_heads; }
  /// Of the means of all KV heads' queries.
  uint64_t mean_floats(const ModelShape& shape) const {
    return uint64_t{max_rows} * max_kv_heads * max_group_heads * shape.head_dim;
  }
  /// Of a row's sum of mean values.
  uint64_t sum_floats(const ModelShape& shape) const {
    return uint64_t{max_kv_heads} * max_group_heads * (uint64_t{shape.head_dim} + 2);
  }
};

struct Walk::State::Selection : SelectionSizes {
  Selection(const index::Rule& rule, const ModelShape& shape, const KernelTable& kernels,
            uint32_t n_threads, uint32_t max_groups, uint64_t n_ctx, bool has_tail);

  /// The context that one KV head of a group attends in the layer at hand.
  struct Head {
    std::vector<uint32_t> chosen;        // full blocks, ascending
    std::vector<tiers::BlockId> blocks;  // those, then the open ones, as HeadTable has them
    uint32_t n_skipped = 0;              // positions, modulo 2^32
    // Where blocks were left out and the index estimates their part. Of blocks left out and of
    // those retrieved: sums of estimated weights and mean values, each o [n_queries, head_dim],
    // m [n_queries], l [n_queries].
    bool has_tail = false;
    uint32_t n_retrieved = 0;  // positions, first in the table
    std::vector<float> left_out_sums, retrieved_sums;
  };

  std::vector<float> weights;
  BlockWeights of_layer;  // at hand: these, or what a device has given
  // Of the group at hand, where it is scored by means: [n_kv_heads][n_means][group, head_dim].
  std::vector<float> means;
  std::vector<std::atomic<uint32_t>> parts_left;  // per KV head: pieces of weights still to come
  std::vector<std::atomic<bool>> is_chosen;       // per KV head: its choice stands
  std::vector<std::atomic<uint32_t>> next_span;   // per KV head: to be attended (attend_as_chosen)
  std::atomic<bool> has_failed = false;           // a head of the layer at hand will not choose
  std::vector<std::vector<uint64_t>> resident;    // per KV head, of the group at hand
  std::vector<index::Chooser> choosers;           // per worker
  std::vector<Head> heads;                        // [group][max_kv_heads]
  // Where there is a tail, of the group at hand: per KV head [n_queries][n_retrieved / 32],
  // logarithms.
  std::vector<std::vector<float>> retrieved_weights;
  // Of the layer at hand: waves in the order of use, and the blocks they pin.
  std::vector<Wave> waves;
  std::vector<tiers::BlockId> reads;
  size_t n_brought = 0;  // of these, pinned until a device has copies
  SelectionCounts counts;
  uint64_t file_bytes_before = 0;  // read from files before the heads of the layer chose
  // For a probe.
  std::vector<float> exact;                      // [n_rows, q_width] of the layer at hand
  std::vector<float> exact_head, selected_head;  // [n_queries, head_dim] of the head at hand
};

}  // namespace strata::engine
