// engine/walk_attend.cc - attention of a step's rows over the block tables of their sequences.
//
// Arithmetic order (law L1), the same for one row and many, one thread and many: a segment of 256
// positions gives a partial; the four segments of a span are merged in order; the spans are merged
// in order (a tail among them: engine/walk_tail.cc); the sum is divided by l. Work is shared out as
// tiles (rows of one sequence x one KV head). Where there are fewer tiles than the threads need (a
// decode step), a tile is split into its spans, whose partials are merged afterwards in the same
// order.
#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/checked_math.h"
#include "engine/walk_state.h"

namespace strata::engine {
namespace {

// Of the next segment, fetched while this one is attended.
constexpr uint32_t kNextBlocks = kSegmentPositions / kBlockPositions;

void clear_partial(float* o, float* m, float* l, uint32_t n_queries, uint32_t head_dim) {
  std::fill_n(o, uint64_t{n_queries} * head_dim, 0.0f);
  std::fill_n(m, n_queries, kMinusInfinity);
  std::fill_n(l, n_queries, 0.0f);
}

}  // namespace

Walk::State::AttendBuffers Walk::State::buffers_of(uint32_t worker) const {
  float* at = attend_memory.data() + worker * attend_floats_per_worker;
  const uint64_t wide = uint64_t{kMaxTileQueries} * shape.head_dim;
  const auto next = [&at](uint64_t floats) {
    float* begin = at;
    at += floats;
    return begin;
  };
  AttendBuffers buffers{};
  buffers.scratch = next(attend_scratch_floats(kMaxTileQueries, shape.head_dim));
  buffers.segment_o = next(wide);
  buffers.span_o = next(wide);
  buffers.run_o = next(wide);
  for (float** row : {&buffers.segment_m, &buffers.segment_l, &buffers.span_m, &buffers.span_l,
                      &buffers.run_m, &buffers.run_l})
    *row = next(kMaxTileQueries);
  return buffers;
}

void Walk::State::attend_segment(const AttendTile& tile, uint32_t segment_pos, uint32_t end_pos,
                                 bool has_prepared_q, AttendBuffers& buffers) const {
  const LayerShape& of = shape.layers[tile.layer];
  const uint32_t group_heads = of.n_heads / of.n_kv_heads;
  const auto block_at = [&](uint32_t pos) {
    const tiers::BlockId id = tile.table.at(pos);
    return id == tiers::kNoBlock ? zero_block.data() : cache.store().bytes(id);
  };
  std::array<const std::byte*, kSegmentPositions / kBlockPositions> blocks;
  const uint32_t n_pos = std::min(kSegmentPositions, end_pos - segment_pos);
  for (uint32_t pos = 0; pos < n_pos; pos += kBlockPositions)
    blocks[pos / kBlockPositions] = block_at(segment_pos + pos);
  std::array<const std::byte*, kNextBlocks> next_blocks;
  uint32_t n_next_blocks = 0;
  for (uint32_t pos = segment_pos + n_pos; n_next_blocks < kNextBlocks && pos < end_pos;
       pos += kBlockPositions) {
    const auto id = tile.table.at(pos);
    if (id == tiers::kNoBlock || !cache.store().is_readable(id)) break;
    next_blocks[n_next_blocks++] = cache.store().bytes(id);
  }
  std::array<uint32_t, kMaxTileQueries> query_pos;
  for (uint32_t i = 0; i < tile.n_queries; ++i)
    query_pos[i] = positions[tile.row_begin + i / group_heads] - tile.table.n_skipped;
  const uint64_t row_floats = uint64_t{group_heads} * shape.head_dim;
  kernels.attend_segment(
      {.q = q_by_head.data() + (uint64_t{tile.kv_head} * n_rows + tile.row_begin) * row_floats,
       .q_stride = shape.head_dim,
       .query_pos = query_pos.data(),
       .n_queries = tile.n_queries,
       .window = of.window,
       .layout = cache.layout(),
       .blocks = blocks.data(),
       .first_pos = segment_pos,
       .n_pos = n_pos,
       .scratch = buffers.scratch,
       .o = buffers.segment_o,
       .m = buffers.segment_m,
       .l = buffers.segment_l,
       .next_blocks = next_blocks.data(),
       .n_next_blocks = n_next_blocks,
       .has_prepared_q = has_prepared_q});
}

/// Leaves the span's partial in buffers.span_*. Segments that no row attends merge as the identity,
/// so they are left out.
void Walk::State::attend_span(const AttendTile& tile, uint32_t span, AttendBuffers& buffers) const {
  const uint32_t window = shape.layers[tile.layer].window;
  const uint32_t n_skipped = tile.table.n_skipped;
  const uint32_t first_query_pos = positions[tile.row_begin] - n_skipped;
  const uint32_t end_pos =
      tile.table.end_of(span, positions[tile.row_begin + tile.n_rows - 1] + 1 - n_skipped);
  const uint32_t first_attended =
      window == 0 || first_query_pos + 1 <= window ? 0 : first_query_pos + 1 - window;
  clear_partial(buffers.span_o, buffers.span_m, buffers.span_l, tile.n_queries, shape.head_dim);
  const uint32_t span_end = std::min(end_pos, (span + 1) * kSpanPositions);
  bool has_prepared_q = false;
  for (uint32_t pos = span * kSpanPositions; pos < span_end; pos += kSegmentPositions) {
    if (pos + kSegmentPositions <= first_attended || pos < tile.first_pos) continue;
    attend_segment(tile, pos, end_pos, has_prepared_q, buffers);
    has_prepared_q = true;
    kernels.merge_partials({buffers.segment_o, buffers.segment_m, buffers.segment_l, buffers.span_o,
                            buffers.span_m, buffers.span_l, tile.n_queries, shape.head_dim});
  }
}

/// Of the tile's queries: what its rows attend in all, or their part of it.
void Walk::State::store_output(const AttendTile& tile, const AttendBuffers& run) const {
  const LayerShape& of = shape.layers[tile.layer];
  const uint32_t group_heads = of.n_heads / of.n_kv_heads;
  if (tile.out.o != nullptr) {
    std::copy_n(run.run_o, uint64_t{tile.n_queries} * shape.head_dim, tile.out.o);
    std::copy_n(run.run_m, tile.n_queries, tile.out.m);
    std::copy_n(run.run_l, tile.n_queries, tile.out.l);
    return;
  }
  const uint64_t q_width = uint64_t{of.n_heads} * shape.head_dim;
  for (uint32_t i = 0; i < tile.n_queries; ++i) {
    const uint32_t row = tile.row_begin + i / group_heads;
    const uint32_t head = tile.kv_head * group_heads + i % group_heads;
    kernels.scale(run.run_o + uint64_t{i} * shape.head_dim, 1.0f / run.run_l[i], shape.head_dim,
                  attended.data() + row * q_width + uint64_t{head} * shape.head_dim);
  }
}

void Walk::State::attend_whole(const AttendTile& tile, AttendBuffers& buffers) const {
  clear_partial(buffers.run_o, buffers.run_m, buffers.run_l, tile.n_queries, shape.head_dim);
  for (uint32_t span = tile.first_span; span < tile.end_span; ++span) {
    attend_span(tile, span, buffers);
    merge_span(tile, span, buffers);
  }
  store_output(tile, buffers);
}

/// Of the KV head's rows [row, end_row) of a group as many as a tile takes.
Walk::State::AttendTile Walk::State::tile_at(uint32_t group_idx, uint32_t layer, uint32_t kv_head,
                                             uint32_t row, uint32_t end_row) const {
  const LayerShape& of = shape.layers[layer];
  const Group& group = groups[group_idx];
  const uint32_t group_heads = of.n_heads / of.n_kv_heads;
  const HeadTable table = head_table(group_idx, layer, kv_head);
  const uint32_t rows = std::min(kMaxTileQueries / group_heads, end_row - row);
  const uint32_t first_pos = group.first_pos + row - table.n_skipped;
  const uint32_t first_attended =
      of.window == 0 || first_pos + 1 <= of.window ? 0 : first_pos + 1 - of.window;
  return {.group = &group,
          .table = table,
          .layer = layer,
          .kv_head = kv_head,
          .row_begin = group.row_begin + row,
          .n_rows = rows,
          .n_queries = rows * group_heads,
          .first_span = first_attended / kSpanPositions,
          .end_span = (first_pos + rows - 1) / kSpanPositions + 1};
}

void Walk::State::list_tiles(uint32_t layer) {
  tiles.clear();
  for (uint32_t idx = 0; idx < groups.size(); ++idx)
    list_tiles_of(idx, layer, 0, groups[idx].n_rows);
}

/// Of rows [begin_row, end_row) of the group.
void Walk::State::list_tiles_of(uint32_t group_idx, uint32_t layer, uint32_t begin_row,
                                uint32_t end_row) {
  const uint32_t n_kv_heads = shape.layers[layer].n_kv_heads;
  const uint32_t n_rows_each = tile_rows(layer, end_row - begin_row);
  for (uint32_t row = begin_row; row < end_row; row += n_rows_each) {
    const uint32_t end = std::min(end_row, row + n_rows_each);
    for (uint32_t kv_head = 0; kv_head < n_kv_heads; ++kv_head)
      tiles.push_back(tile_at(group_idx, layer, kv_head, row, end));
  }
}

/// Rows of a tile of so many: what it holds, for K and V are turned and fetched once for each tile,
/// or half of it, where threads would not have an even share.
uint32_t Walk::State::tile_rows(uint32_t layer, uint32_t n_rows_all) const {
  const LayerShape& of = shape.layers[layer];
  const uint32_t most = kMaxTileQueries / (of.n_heads / of.n_kv_heads);
  const uint64_t n_tiles = div_up(n_rows_all, most) * of.n_kv_heads;
  return n_tiles < uint64_t{kTilesPerThread} * pool.size() ? std::max(1u, most / 2) : most;
}

/// `buffers` with the span's partial of a tile in span_partials, from its first float on.
Walk::State::AttendBuffers Walk::State::with_span_at(uint64_t floats, uint32_t n_queries,
                                                     AttendBuffers buffers) const {
  buffers.span_o = span_partials.data() + floats;
  buffers.span_m = buffers.span_o + uint64_t{n_queries} * shape.head_dim;
  buffers.span_l = buffers.span_m + n_queries;
  return buffers;
}

void Walk::State::attend_split(uint32_t layer) {
  const uint64_t query_floats = uint64_t{shape.head_dim} + 2;
  split_items.clear();
  tile_partials.clear();
  uint64_t floats = 0;
  for (uint32_t idx = 0; idx < tiles.size(); ++idx) {
    tile_partials.push_back(floats);
    for (uint32_t span = tiles[idx].first_span; span < tiles[idx].end_span; ++span) {
      split_items.push_back({idx, span});
      floats += tiles[idx].n_queries * query_floats;
    }
  }
  STRATA_CHECK(floats <= span_partials.size(), "%lu floats of span partials",
               static_cast<unsigned long>(floats));
  pool.for_each_guided(split_items.size(), [&](uint64_t begin, uint64_t end, uint32_t worker) {
    for (uint64_t item = begin; item < end; ++item) {
      const auto [tile_idx, span] = split_items[item];
      const AttendTile& tile = tiles[tile_idx];
      const uint64_t at = uint64_t{span - tile.first_span} * tile.n_queries * query_floats;
      AttendBuffers buffers =
          with_span_at(tile_partials[tile_idx] + at, tile.n_queries, buffers_of(worker));
      attend_span(tile, span, buffers);
    }
  });
  merge_split(layer);
}

/// Outputs of the tiles, of the partials of their spans from tile_partials on.
void Walk::State::merge_split(uint32_t layer) {
  for (uint32_t idx = 0; idx < tiles.size(); ++idx) {
    const AttendTile& tile = tiles[idx];
    const uint64_t span_floats = tile.n_queries * (uint64_t{shape.head_dim} + 2);
    AttendBuffers buffers = buffers_of(0);
    clear_partial(buffers.run_o, buffers.run_m, buffers.run_l, tile.n_queries, shape.head_dim);
    for (uint32_t span = tile.first_span; span < tile.end_span; ++span) {
      const uint64_t at = tile_partials[idx] + (span - tile.first_span) * span_floats;
      buffers = with_span_at(at, tile.n_queries, buffers);
      merge_span(tile, span, buffers);
    }
    store_output(tile, buffers);
  }
  STRATA_CHECK(tiles.empty() || tiles[0].layer == layer, "tiles of layer %u", layer);
}

void Walk::State::attend(uint32_t layer) {
  if (!is_selected || shape.layers[layer].window > 0) return attend_tables(layer);
  if (attends_as_chosen(layer)) return attend_as_chosen(layer);
  if (probe != nullptr) attend_exactly(layer);
  select_layer(layer);
  attend_tables(layer);
  if (probe != nullptr) tell_probe(layer);
}

/// Over head_table() of every KV head.
void Walk::State::attend_tables(uint32_t layer) {
  list_tiles(layer);
  if (reads_chosen(layer)) return attend_chosen(layer);
  if (next_wave < waves.size() && waves[next_wave].layer == layer) return attend_streamed(layer);
  if (!settled_ends.empty()) settle_layer(layer);
  attend_tiles(layer);
}

/// The listed tiles, over what is in memory.
void Walk::State::attend_tiles(uint32_t layer) {
  uint64_t split_floats = 0;
  bool has_spans = false;
  for (const AttendTile& tile : tiles) {
    split_floats +=
        uint64_t{tile.end_span - tile.first_span} * tile.n_queries * (shape.head_dim + 2);
    has_spans = has_spans || tile.end_span - tile.first_span > 1;
  }
  if (has_spans && pool.size() > 1 && tiles.size() < kTilesPerThread * pool.size() &&
      split_floats <= kSplitFloatsMax) {
    attend_split(layer);
    return;
  }
  pool.for_each(tiles.size(), 1, [&](uint64_t begin, uint64_t end, uint32_t worker) {
    AttendBuffers buffers = buffers_of(worker);
    for (uint64_t idx = begin; idx < end; ++idx) attend_whole(tiles[idx], buffers);
  });
}

/// Positions from first_pos on, a multiple of kSegmentPositions, of a full layer: partials of the
/// rows, whose queries are in q_by_head. What is before them a device attends.
void Walk::State::attend_beside(uint32_t layer, const PartRows& rows, uint32_t first_pos,
                                const gpu_attn::SplitPartials& out) {
  tiles.clear();
  list_tiles_of(rows.group_idx, layer, rows.first, rows.first + rows.n_rows);
  const uint32_t first_row = groups[rows.group_idx].row_begin + rows.first;
  const uint32_t group_heads = shape.layers[layer].n_heads / shape.layers[layer].n_kv_heads;
  for (AttendTile& tile : tiles) {
    tile.first_pos = first_pos;
    tile.first_span = std::min(first_pos / kSpanPositions, tile.end_span);
    const uint64_t at =
        (uint64_t{tile.kv_head} * rows.n_rows + tile.row_begin - first_row) * group_heads;
    tile.out = {out.o + at * shape.head_dim, out.m + at, out.l + at};
  }
  if (next_wave < waves.size() && waves[next_wave].layer == layer) {
    STRATA_CHECK(rows.n_rows == groups[rows.group_idx].n_rows, "%u rows of %u in waves of all",
                 rows.n_rows, groups[rows.group_idx].n_rows);
    return attend_streamed(layer);
  }
  attend_tiles(layer);
}

}  // namespace strata::engine
