// engine/walk_probe.cc - a selected layer attended twice, for a probe: exactly, then as chosen. The
// second pass writes every output of the first, so that a probe changes no bit.
#include <algorithm>

#include "base/check.h"
#include "engine/walk_select.h"

namespace strata::engine {

/// Leaves the layer's exact output in selection->exact.
void Walk::State::attend_exactly(uint32_t layer) {
  STRATA_CHECK(!cache.store().has_away(), "a probe wants all of K and V in DRAM");
  is_selected = false;
  attend_tables(layer);
  is_selected = true;
  const uint64_t q_width = uint64_t{shape.layers[layer].n_heads} * shape.head_dim;
  const auto outputs = attended.first(n_rows * q_width);
  selection->exact.assign(outputs.begin(), outputs.end());
}

void Walk::State::tell_probe(uint32_t layer) {
  const LayerShape& of = shape.layers[layer];
  const uint32_t group_heads = of.n_heads / of.n_kv_heads;
  const uint64_t q_width = uint64_t{of.n_heads} * shape.head_dim;
  const uint64_t row_floats = uint64_t{group_heads} * shape.head_dim;
  const auto gather = [&](std::span<const float> rows, const Group& group, uint32_t kv_head,
                          std::vector<float>& out) {
    out.clear();
    for (uint32_t row = group.row_begin; row < group.row_begin + group.n_rows; ++row) {
      const auto head = rows.subspan(row * q_width + kv_head * row_floats, row_floats);
      out.insert(out.end(), head.begin(), head.end());
    }
  };
  for (uint32_t idx = 0; idx < groups.size(); ++idx) {
    const Group& group = groups[idx];
    for (uint32_t kv_head = 0; kv_head < of.n_kv_heads; ++kv_head) {
      gather(selection->exact, group, kv_head, selection->exact_head);
      gather(attended, group, kv_head, selection->selected_head);
      const uint64_t first_query = uint64_t{kv_head} * n_rows + group.row_begin;
      probe->hear({.sequence = group.sequence,
                   .layer = layer,
                   .kv_head = kv_head,
                   .n_queries = group.n_rows * group_heads,
                   .q = q_by_head.subspan(first_query * row_floats, group.n_rows * row_floats),
                   .n_blocks = group.held_pos / kBlockPositions,
                   .chosen = selection->heads[idx * selection->max_kv_heads + kv_head].chosen,
                   .exact = selection->exact_head,
                   .selected = selection->selected_head});
    }
  }
}

void Walk::set_probe(AttentionProbe* probe) { state_->probe = probe; }

}  // namespace strata::engine
