// engine/walk_stream.cc - attention of layers whose KV is partly on disk, and what happens when the
// disk loses some.
//
// The spans of a group are cut into waves in position order; a wave's missing extents fit into a
// twelfth of the staging frames, or the wave is one span, so that the next waves, also those of
// later layers, are read while one is attended. Every tile keeps its running partial from wave to
// wave; spans are merged into it in order, as everywhere (law L1), so the bits are those of a run
// that has everything in DRAM. Residency does not change within a step, so the waves are known when
// it begins.
#include <algorithm>
#include <limits>
#include <string>

#include "base/check.h"
#include "engine/walk_state.h"

namespace strata::engine {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr uint32_t kWavesInFlight = 12;  // at 3 decoding was slower (docs/measurements.md)

}  // namespace

/// Lists in span_missing the extents of a span that are not in DRAM, each once. False where there
/// are none.
bool Walk::State::list_missing(uint32_t group_idx, uint32_t layer, uint32_t span) {
  span_missing.clear();
  for (uint32_t head = 0; head < shape.layers[layer].n_kv_heads; ++head) {
    const HeadTable table = head_table(group_idx, layer, head);
    const uint32_t begin = span * kSpanPositions;
    const uint32_t end =
        std::min(begin + kSpanPositions, groups[group_idx].first_pos - table.n_skipped);
    for (uint32_t pos = begin; pos < end; pos += kBlockPositions) {
      const tiers::BlockId id = table.at(pos);
      if (id == tiers::kNoBlock || cache.store().is_resident(id)) continue;
      const tiers::ExtentId extent = cache.store().extent_of(id);
      if (std::ranges::find(span_missing, extent) == span_missing.end())
        span_missing.push_back(extent);
    }
  }
  return !span_missing.empty();
}

void Walk::State::plan_layer_waves(uint32_t layer) {
  const size_t first_wave = waves.size();
  const size_t first_fetch = fetches.size();
  const uint32_t wave_frames = std::max(1u, cache.store().transfers()->n_frames() / kWavesInFlight);
  for (uint32_t idx = 0; idx < groups.size(); ++idx) {
    const Group& group = groups[idx];
    uint32_t n_skipped = group.first_pos;  // by the head that skips least
    for (uint32_t head = 0; head < shape.layers[layer].n_kv_heads; ++head)
      n_skipped = std::min(n_skipped, head_table(idx, layer, head).n_skipped);
    const uint32_t end_span = (group.first_pos + group.n_rows - 1 - n_skipped) / kSpanPositions + 1;
    Wave wave{layer, idx, 0, 0, static_cast<uint32_t>(fetches.size()), 0};
    for (uint32_t span = 0; span < end_span; ++span) {
      const bool is_missing = list_missing(idx, layer, span);
      const auto n_fetches = static_cast<uint32_t>(fetches.size());
      // What is in DRAM is a wave of its own, attended while the rest is on its way.
      const bool is_turn = span > wave.first_span && is_missing && n_fetches == wave.fetch_begin;
      if (is_turn || n_fetches - wave.fetch_begin + span_missing.size() > wave_frames) {
        wave.end_span = span;
        wave.fetch_end = n_fetches;
        if (wave.end_span > wave.first_span) waves.push_back(wave);
        wave.first_span = span;
        wave.fetch_begin = n_fetches;
      }
      fetches.insert(fetches.end(), span_missing.begin(), span_missing.end());
    }
    wave.end_span = end_span;
    wave.fetch_end = static_cast<uint32_t>(fetches.size());
    waves.push_back(wave);
  }
  if (fetches.size() == first_fetch) waves.resize(first_wave);  // all of it is in DRAM
}

void Walk::State::plan_waves() {
  waves.clear();
  fetches.clear();
  next_wave = n_fetched = n_released = 0;
  if (!cache.store().has_away() || is_selected) return;  // what is chosen is not known yet
  for (uint32_t layer = 0; layer < shape.n_layers; ++layer)
    if (shape.layers[layer].window == 0) plan_layer_waves(layer);
  fetch_ahead();
}

/// Begins to read what is used next, as far as there are frames.
void Walk::State::fetch_ahead() {
  while (n_fetched < fetches.size() && cache.store().fetch(fetches[n_fetched])) ++n_fetched;
}

void Walk::State::drop_fetches() {
  while (n_released < n_fetched) cache.store().release(fetches[n_released++]);
  fetches.clear();
  waves.clear();
  next_wave = n_fetched = n_released = 0;
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

void Walk::State::attend_wave(const Wave& wave) {
  const Group* group = &groups[wave.group];
  uint32_t first = 0;
  while (tiles[first].group != group) ++first;
  uint32_t end = first;
  while (end < tiles.size() && tiles[end].group == group) ++end;
  const uint32_t n_tiles = end - first;
  const uint32_t n_spans = wave.end_span - wave.first_span;
  const uint64_t span_floats = uint64_t{kMaxTileQueries} * (shape.head_dim + 2);
  // Few tiles (a decode step) are split into their spans, as attend_split does.
  const bool is_split = n_spans > 1 && n_tiles < kTilesPerThread * pool.size() &&
                        uint64_t{n_tiles} * n_spans * span_floats <= span_partials.size();
  const auto has_span = [&](const AttendTile& tile, uint32_t span) {
    return span >= tile.first_span && span < tile.end_span;
  };
  const auto merge = [&](const AttendTile& tile, const AttendBuffers& at) {
    kernels.merge_partials({at.span_o, at.span_m, at.span_l, at.run_o, at.run_m, at.run_l,
                            tile.n_queries, shape.head_dim});
  };
  if (!is_split) {
    pool.for_each(n_tiles, 1, [&](uint64_t from, uint64_t to, uint32_t worker) {
      for (auto idx = first + static_cast<uint32_t>(from); idx < first + to; ++idx) {
        AttendBuffers buffers = with_run_of(idx, buffers_of(worker));
        for (uint32_t span = wave.first_span; span < wave.end_span; ++span) {
          if (!has_span(tiles[idx], span)) continue;
          attend_span(tiles[idx], span, buffers);
          merge(tiles[idx], buffers);
        }
      }
    });
    return;
  }
  const auto with_span_of = [&](uint64_t item, AttendBuffers buffers) {
    buffers.span_o = span_partials.data() + item * span_floats;
    buffers.span_m = buffers.span_o + uint64_t{kMaxTileQueries} * shape.head_dim;
    buffers.span_l = buffers.span_m + kMaxTileQueries;
    return buffers;
  };
  pool.for_each(uint64_t{n_tiles} * n_spans, 1, [&](uint64_t from, uint64_t to, uint32_t worker) {
    for (uint64_t item = from; item < to; ++item) {
      const AttendTile& tile = tiles[first + item / n_spans];
      const auto span = wave.first_span + static_cast<uint32_t>(item % n_spans);
      if (!has_span(tile, span)) continue;
      AttendBuffers buffers = with_span_of(item, buffers_of(worker));
      attend_span(tile, span, buffers);
    }
  });
  for (uint64_t item = 0; item < uint64_t{n_tiles} * n_spans; ++item) {
    const auto idx = first + static_cast<uint32_t>(item / n_spans);
    if (!has_span(tiles[idx], wave.first_span + static_cast<uint32_t>(item % n_spans))) continue;
    merge(tiles[idx], with_span_of(item, with_run_of(idx, buffers_of(0))));
  }
}

void Walk::State::attend_streamed(uint32_t layer) {
  tile_queries.clear();
  uint64_t n_queries = 0;
  for (const AttendTile& tile : tiles) {
    tile_queries.push_back(n_queries);
    n_queries += tile.n_queries;
  }
  std::fill_n(q.data(), n_queries * shape.head_dim, 0.0f);
  std::fill_n(run_m.data(), n_queries, kMinusInfinity);
  std::fill_n(run_l.data(), n_queries, 0.0f);
  for (; next_wave < waves.size() && waves[next_wave].layer == layer; ++next_wave) {
    check_cancelled();
    const Wave& wave = waves[next_wave];
    for (fetch_ahead(); n_fetched < wave.fetch_end; fetch_ahead())
      if (!cache.store().wait_for_transfer())
        throw Error(ErrorCode::kIo, "no staging memory became free: the disk does not answer",
                    "spill file", "look at the disk (dmesg), or name another one with --nvme");
    cache.store().take(
        std::span(fetches).subspan(wave.fetch_begin, wave.fetch_end - wave.fetch_begin), pool);
    attend_wave(wave);
    while (n_released < wave.fetch_end) cache.store().release(fetches[n_released++]);
    fetch_ahead();
  }
  for (uint32_t idx = 0; idx < tiles.size(); ++idx) {
    const AttendBuffers run = with_run_of(idx, AttendBuffers{});
    store_output(tiles[idx], run.run_o, run.run_l);
  }
}

Sequence* Walk::State::holder_of(std::span<const StepRow> rows,
                                 const tiers::LostExtent& lost) const {
  for (const StepRow& row : rows) {
    if (row.sequence->n_pos() <= lost.first_pos()) continue;
    for (uint32_t head = 0; head < shape.layers[lost.layer()].n_kv_heads; ++head)
      for (uint32_t pos = lost.first_pos();
           pos < std::min(lost.first_pos() + kExtentPositions, row.sequence->n_pos());
           pos += kBlockPositions)
        if (cache.store().extent_of(cache.block_id(*row.sequence, lost.layer(), head, pos)) ==
            lost.extent())
          return row.sequence;
  }
  STRATA_CHECK(false, "no sequence of the step has the lost extent");
}

/// Computes the positions of a lost extent again from their tokens, in a fork that is cut before
/// them, and puts the fresh blocks where the lost ones were. Where windowed layers have let go of
/// the rows before them, the fork begins at 0, and shares with the sequence again what it has
/// passed. Errors: LostExtent, of a part of the past that the fork needs: it shares that with the
/// sequence.
void Walk::State::compute_again(Sequence& sequence, uint32_t first_pos) {
  Sequence again = sequence.fork();
  again.drop_index();  // that of the sequence holds what is computed again
  uint32_t pos = again.truncate(first_pos);
  const uint32_t end = std::min(first_pos + kExtentPositions, sequence.n_pos());
  std::vector<StepRow> rows;
  while (pos < end) {
    const uint32_t n = std::min({max_rows, kExtentPositions, end - pos});
    rows.clear();
    for (uint32_t i = pos; i < pos + n; ++i) rows.push_back({&again, sequence.tokens()[i], false});
    run_step(rows, Attention::kExact);
    cache.share_blocks(sequence, again, pos, std::min(pos + n, first_pos), true);
    pos += n;
  }
  cache.replace_extents(sequence, again, first_pos);
}

/// An earlier extent that is lost as well is repaired first, when the fork that met it is gone: so
/// there is one fork at a time, and memory for one. It stands at lower positions, so this ends.
void Walk::State::repair(Sequence& sequence, const tiers::LostExtent& lost) {
  for (uint32_t n_repairs = 0;; ++n_repairs) {
    try {
      return compute_again(sequence, lost.first_pos());
    } catch (const tiers::LostExtent& earlier) {
      if (n_repairs == kMaxRepairs) throw;
      repair(sequence, earlier);
    }
  }
}

}  // namespace strata::engine
