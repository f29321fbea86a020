// engine/walk_waves.cc - attention of a layer in waves: spans of one sequence's context, in order,
// each attended while its blocks are in memory.
//
// Every tile keeps its running partial from wave to wave; spans are merged into it in order, as
// everywhere (law L1), so the bits are those of a run that has everything in DRAM.
#include <algorithm>

#include "engine/walk_state.h"

namespace strata::engine {

/// Empty running partials for the tiles of the layer at hand.
void Walk::State::begin_runs() {
  tile_queries.clear();
  uint64_t n_queries = 0;
  for (const AttendTile& tile : tiles) {
    tile_queries.push_back(n_queries);
    n_queries += tile.n_queries;
  }
  std::fill_n(q.data(), n_queries * shape.head_dim, 0.0f);
  std::fill_n(run_m.data(), n_queries, kMinusInfinity);
  std::fill_n(run_l.data(), n_queries, 0.0f);
}

void Walk::State::store_runs() {
  for (uint32_t idx = 0; idx < tiles.size(); ++idx)
    store_output(tiles[idx], with_run_of(idx, AttendBuffers{}));
}

/// `buffers` with the running partial of a tile that lasts over the waves of its layer.
Walk::State::AttendBuffers Walk::State::with_run_of(uint32_t tile_idx,
                                                    AttendBuffers buffers) const {
  const uint64_t query = tile_queries[tile_idx];
  buffers.run_o = q.data() + query * shape.head_dim;
  buffers.run_m = run_m.data() + query;
  buffers.run_l = run_l.data() + query;
  return buffers;
}

/// Of KV heads [first_head, end_head).
void Walk::State::attend_wave(const Wave& wave, uint32_t first_head, uint32_t end_head) {
  const Group* group = &groups[wave.group];
  uint32_t first = 0;
  while (tiles[first].group != group) ++first;
  uint32_t end = first;
  while (end < tiles.size() && tiles[end].group == group) ++end;
  // As list_tiles() lists them: all KV heads of some rows, then those of the next ones.
  const uint32_t n_kv_heads = shape.layers[wave.layer].n_kv_heads;
  const uint32_t n_heads = end_head - first_head;
  const uint32_t n_tiles = (end - first) / n_kv_heads * n_heads;
  const auto tile_idx = [&](uint64_t i) {
    return first + static_cast<uint32_t>(i / n_heads * n_kv_heads + first_head + i % n_heads);
  };
  const uint32_t n_spans = wave.end_span - wave.first_span;
  const uint32_t n_queries = tiles[first].n_queries;  // no other tile of the group has more
  const uint64_t span_floats = n_queries * (uint64_t{shape.head_dim} + 2);
  // Few tiles (a decode step) are split into their spans, as attend_split does.
  const bool is_split = n_spans > 1 && n_tiles < kTilesPerThread * pool.size() &&
                        uint64_t{n_tiles} * n_spans * span_floats <= span_partials.size();
  const auto has_span = [&](const AttendTile& tile, uint32_t span) {
    return span >= tile.first_span && span < tile.end_span;
  };
  if (!is_split) {
    pool.for_each(n_tiles, 1, [&](uint64_t from, uint64_t to, uint32_t worker) {
      for (uint64_t i = from; i < to; ++i) {
        const uint32_t idx = tile_idx(i);
        AttendBuffers buffers = with_run_of(idx, buffers_of(worker));
        for (uint32_t span = wave.first_span; span < wave.end_span; ++span) {
          if (!has_span(tiles[idx], span)) continue;
          attend_span(tiles[idx], span, buffers);
          merge_span(tiles[idx], span, buffers);
        }
      }
    });
    return;
  }
  const auto with_span_of = [&](uint64_t item, AttendBuffers buffers) {
    return with_span_at(item * span_floats, n_queries, buffers);
  };
  const uint64_t n_items = uint64_t{n_tiles} * n_spans;
  pool.for_each_guided(n_items, [&](uint64_t from, uint64_t to, uint32_t worker) {
    for (uint64_t item = from; item < to; ++item) {
      const AttendTile& tile = tiles[tile_idx(item / n_spans)];
      const auto span = wave.first_span + static_cast<uint32_t>(item % n_spans);
      if (!has_span(tile, span)) continue;
      AttendBuffers buffers = with_span_of(item, buffers_of(worker));
      attend_span(tile, span, buffers);
    }
  });
  for (uint64_t item = 0; item < n_items; ++item) {
    const uint32_t idx = tile_idx(item / n_spans);
    const auto span = wave.first_span + static_cast<uint32_t>(item % n_spans);
    if (!has_span(tiles[idx], span)) continue;
    AttendBuffers buffers = with_span_of(item, with_run_of(idx, buffers_of(0)));
    merge_span(tiles[idx], span, buffers);
  }
}

}  // namespace strata::engine
