// engine/walk_tail.cc - the part of attention that blocks which were not chosen would have had,
// estimated (docs/adr/0014-tail.md).
//
// Per query, l_u = sum of the estimated weights of the full blocks left out, and their values are
// taken to be their mean values by these weights, u, plus a share of what the query found in the
// blocks retrieved beyond their mean values: those chosen beside sinks, window and open blocks. So
// these are attended first, alone in their spans, then the tail is merged as one more partial, then
// the rest:
//
//   o += l_u (u + share (o_r / l_r - r)),  l += l_u
//
// (o_r, l_r) the running partial of retrieved blocks, r their mean values by estimated weights;
// u alone where there are none. Where nothing is left out there is no tail, and the table is that
// of every method.
#include <algorithm>

#include "base/check.h"
#include "base/checked_math.h"
#include "engine/walk_select.h"

namespace strata::engine {
namespace {

// Of the index that a worker sums at a time. The order of sums depends on the number of blocks and
// on queries that share a choice, not on workers.
constexpr uint32_t kBlocksPerPart = 1024;
constexpr uint32_t kPartsMax = 8;  // of a KV head

/// Where a partial of n_queries lies.
struct Partial {
  float* o;
  float* m;
  float* l;
};

Partial partial_at(float* at, uint32_t n_queries, uint32_t head_dim) {
  float* m = at + uint64_t{n_queries} * head_dim;
  return {at, m, m + n_queries};
}

bool is_retrieved(uint32_t block, const index::Rule& rule, uint32_t n_blocks) {
  return block >= rule.n_sink_blocks && block < n_blocks - std::min(n_blocks, rule.n_window_blocks);
}

}  // namespace

/// The table of a head with a tail: retrieved blocks up to the end of a span, then sinks, window
/// and open blocks. Attention to full blocks does not depend on their order, but for rounding.
void Walk::State::put_tail_table(uint32_t group_idx, uint32_t layer, uint32_t kv_head,
                                 uint32_t n_blocks, const index::Rule& rule) {
  const auto all = cache.stream_blocks(*groups[group_idx].sequence, layer, kv_head).blocks;
  auto& head = selection->heads[group_idx * selection->max_kv_heads + kv_head];
  head.has_tail = true;
  head.blocks.clear();
  for (const uint32_t block : head.chosen)
    if (is_retrieved(block, rule, n_blocks)) head.blocks.push_back(all[block]);
  head.n_retrieved = static_cast<uint32_t>(head.blocks.size()) * kBlockPositions;
  head.blocks.resize(round_up(head.blocks.size(), kSpanPositions / kBlockPositions),
                     tiers::kNoBlock);
  for (const uint32_t block : head.chosen)
    if (!is_retrieved(block, rule, n_blocks)) head.blocks.push_back(all[block]);
  head.n_skipped = (n_blocks - static_cast<uint32_t>(head.blocks.size())) * kBlockPositions;
  head.blocks.insert(head.blocks.end(), all.begin() + n_blocks, all.end());
  leave_out_chosen(group_idx, layer, kv_head, rule, n_blocks);
}

/// From now on selection->weights of the head are those of the blocks that are left out.
void Walk::State::leave_out_chosen(uint32_t group_idx, uint32_t layer, uint32_t kv_head,
                                   const index::Rule& rule, uint32_t n_blocks) {
  const LayerShape& of = shape.layers[layer];
  const uint32_t n_queries = groups[group_idx].n_rows * (of.n_heads / of.n_kv_heads);
  const auto& head = selection->heads[group_idx * selection->max_kv_heads + kv_head];
  auto& retrieved = selection->retrieved_weights[kv_head];
  retrieved.clear();
  for (uint32_t query = 0; query < n_queries; ++query) {
    float* row =
        selection->weights.data() + (uint64_t{kv_head} * n_queries + query) * selection->stride;
    for (const uint32_t block : head.chosen) {
      if (is_retrieved(block, rule, n_blocks)) retrieved.push_back(row[block]);
      row[block] = kMinusInfinity;
    }
  }
}

/// From now on they are those of the blocks that were retrieved.
void Walk::State::keep_retrieved(uint32_t group_idx, uint32_t layer, uint32_t kv_head,
                                 const index::Rule& rule, uint32_t n_blocks) {
  const LayerShape& of = shape.layers[layer];
  const uint32_t n_queries = groups[group_idx].n_rows * (of.n_heads / of.n_kv_heads);
  const auto& head = selection->heads[group_idx * selection->max_kv_heads + kv_head];
  const float* from = selection->retrieved_weights[kv_head].data();
  for (uint32_t query = 0; query < n_queries; ++query) {
    float* row =
        selection->weights.data() + (uint64_t{kv_head} * n_queries + query) * selection->stride;
    std::fill_n(row, n_blocks, kMinusInfinity);
    for (const uint32_t block : head.chosen)
      if (is_retrieved(block, rule, n_blocks)) row[block] = *from++;
  }
}

/// Sums of mean values by selection->weights, of every head that has a tail: parts of the index by
/// all workers, merged in order.
void Walk::State::sum_means(uint32_t group_idx, uint32_t layer, uint32_t n_blocks,
                            bool of_retrieved) {
  const Group& group = groups[group_idx];
  const LayerShape& of = shape.layers[layer];
  const uint32_t n_queries = group.n_rows * (of.n_heads / of.n_kv_heads);
  const uint64_t part_floats = n_queries * (uint64_t{shape.head_dim} + 2);
  const uint64_t n_parts_max = kSplitFloatsMax / (of.n_kv_heads * part_floats);
  STRATA_CHECK(n_parts_max > 0, "%lu floats of a tail", static_cast<unsigned long>(part_floats));
  const auto n_parts = static_cast<uint32_t>(std::clamp<uint64_t>(
      div_up(n_blocks, kBlocksPerPart), 1, std::min<uint64_t>(kPartsMax, n_parts_max)));
  const auto n_part_blocks =
      static_cast<uint32_t>(round_up(div_up(n_blocks, n_parts), kExtentBlocks));
  const index::Selector& index = *group.sequence->index();
  auto* heads = &selection->heads[uint64_t{group_idx} * selection->max_kv_heads];
  const auto part_of = [&](uint32_t head, uint32_t part) {
    return partial_at(span_partials.data() + (uint64_t{head} * n_parts + part) * part_floats,
                      n_queries, shape.head_dim);
  };
  pool.for_each(uint64_t{of.n_kv_heads} * n_parts, 1, [&](uint64_t from, uint64_t to, uint32_t w) {
    for (uint64_t item = from; item < to; ++item) {
      const auto head = static_cast<uint32_t>(item / n_parts);
      const auto part = static_cast<uint32_t>(item % n_parts);
      if (!heads[head].has_tail) continue;
      const Partial sums = part_of(head, part);
      index.estimate_tail({.stream = cache.index_stream(layer, head),
                           .log_weights = selection->weights.data() +
                                          uint64_t{head} * n_queries * selection->stride,
                           .weight_stride = selection->stride,
                           .n_queries = n_queries,
                           .first_block = part * n_part_blocks,
                           .end_block = std::min(n_blocks, (part + 1) * n_part_blocks),
                           .scratch = buffers_of(w).scratch,
                           .o = sums.o,
                           .m = sums.m,
                           .l = sums.l});
    }
  });
  for (uint32_t head = 0; head < of.n_kv_heads; ++head) {
    if (!heads[head].has_tail) continue;
    auto& sums = of_retrieved ? heads[head].retrieved_sums : heads[head].left_out_sums;
    sums.assign(part_floats, 0.0f);
    const Partial run = partial_at(sums.data(), n_queries, shape.head_dim);
    std::fill_n(run.m, n_queries, kMinusInfinity);
    for (uint32_t part = 0; part < n_parts; ++part) {
      const Partial of_part = part_of(head, part);
      kernels.merge_partials(
          {of_part.o, of_part.m, of_part.l, run.o, run.m, run.l, n_queries, shape.head_dim});
    }
  }
}

void Walk::State::estimate_tails(uint32_t group_idx, uint32_t layer, uint32_t n_blocks) {
  const uint32_t n_kv_heads = shape.layers[layer].n_kv_heads;
  const auto* heads = &selection->heads[uint64_t{group_idx} * selection->max_kv_heads];
  if (!std::any_of(heads, heads + n_kv_heads, [](const auto& head) { return head.has_tail; }))
    return;
  sum_means(group_idx, layer, n_blocks, false);
  const index::Rule& rule = selection->choosers[0].rule();
  for (uint32_t head = 0; head < n_kv_heads; ++head)
    if (heads[head].has_tail) keep_retrieved(group_idx, layer, head, rule, n_blocks);
  sum_means(group_idx, layer, n_blocks, true);
}

/// Merges the span's partial into the tile's running one, and what comes before it.
void Walk::State::merge_span(const AttendTile& tile, uint32_t span, AttendBuffers& buffers) const {
  if (tile.table.has_tail && span == tile.table.n_retrieved_spans()) merge_tail(tile, buffers);
  kernels.merge_partials({buffers.span_o, buffers.span_m, buffers.span_l, buffers.run_o,
                          buffers.run_m, buffers.run_l, tile.n_queries, shape.head_dim});
}

/// The running partial is that of the retrieved blocks. The span's partial is not touched.
void Walk::State::merge_tail(const AttendTile& tile, AttendBuffers& buffers) const {
  const LayerShape& of = shape.layers[tile.layer];
  const uint32_t group_heads = of.n_heads / of.n_kv_heads;
  const auto group_idx = static_cast<uint64_t>(tile.group - groups.data());
  auto& head = selection->heads[group_idx * selection->max_kv_heads + tile.kv_head];
  const uint32_t n_queries = tile.group->n_rows * group_heads;
  const Partial left_out = partial_at(head.left_out_sums.data(), n_queries, shape.head_dim);
  const Partial retrieved = partial_at(head.retrieved_sums.data(), n_queries, shape.head_dim);
  const uint32_t first = (tile.row_begin - tile.group->row_begin) * group_heads;
  for (uint32_t i = 0; i < tile.n_queries; ++i) {
    const uint64_t at = uint64_t{first + i} * shape.head_dim;
    const float* found = buffers.run_o + uint64_t{i} * shape.head_dim;
    float* o = buffers.segment_o + uint64_t{i} * shape.head_dim;
    const float found_l = buffers.run_l[i], mean_l = retrieved.l[first + i];
    const float share = found_l > 0 && mean_l > 0 ? kTailFoundShare * left_out.l[first + i] : 0.0f;
    const float of_found = share > 0 ? share / found_l : 0.0f;
    const float of_mean = share > 0 ? share / mean_l : 0.0f;
    for (uint32_t d = 0; d < shape.head_dim; ++d)
      o[d] = left_out.o[at + d] + (of_found * found[d] - of_mean * retrieved.o[at + d]);
  }
  kernels.merge_partials({buffers.segment_o, left_out.m + first, left_out.l + first, buffers.run_o,
                          buffers.run_m, buffers.run_l, tile.n_queries, shape.head_dim});
}

}  // namespace strata::engine
