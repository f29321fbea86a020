// engine/walk_stream.cc - exact attention of layers whose KV is partly on disk, and what happens
// when the disk loses some.
//
// The spans of a group are cut into waves in position order; a wave's missing extents fit into a
// twelfth of the staging frames, or the wave is one span, so that the next waves, also those of
// later layers, are read while one is attended. Residency does not change within a step, so the
// waves are known when it begins.
#include <algorithm>
#include <string>

#include "base/check.h"
#include "base/checked_math.h"
#include "engine/walk_state.h"

namespace strata::engine {
namespace {

constexpr uint32_t kWavesInFlight = 12;  // at 3 decoding was slower (docs/measurements.md)

}  // namespace

/// Lists in span_missing the extents of the positions that are not in DRAM, each once. False where
/// there are none.
bool Walk::State::list_missing(uint32_t group_idx, uint32_t layer, uint32_t begin_pos,
                               uint32_t end_pos) {
  span_missing.clear();
  end_pos = std::min(end_pos, groups[group_idx].held_pos);
  for (uint32_t head = 0; head < shape.layers[layer].n_kv_heads; ++head) {
    const HeadTable table = head_table(group_idx, layer, head);
    for (uint32_t pos = begin_pos; pos < end_pos; pos += kBlockPositions) {
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
  for (uint32_t idx = 0; idx < groups.size(); ++idx) plan_group_waves(idx, layer, 0);
  if (fetches.size() == first_fetch) waves.resize(first_wave);  // all of it is in DRAM
}

/// What a group attends of a layer from first_pos on, a multiple of kSegmentPositions.
void Walk::State::plan_group_waves(uint32_t group_idx, uint32_t layer, uint32_t first_pos) {
  const uint32_t wave_frames = std::max(1u, cache.store().transfers()->n_frames() / kWavesInFlight);
  const Group& group = groups[group_idx];
  const uint32_t end_span = (group.first_pos + group.n_rows - 1) / kSpanPositions + 1;
  const uint32_t first_span = first_pos / kSpanPositions;
  Wave wave{layer, group_idx, first_span, 0, static_cast<uint32_t>(fetches.size()), 0};
  for (uint32_t span = first_span; span < end_span; ++span) {
    const bool is_missing = list_missing(
        group_idx, layer, std::max(first_pos, span * kSpanPositions), (span + 1) * kSpanPositions);
    const auto n_fetches = static_cast<uint32_t>(fetches.size());
    // What is in DRAM is a wave of its own, attended while the rest is on its way.
    const bool is_turn = span > wave.first_span && is_missing && n_fetches == wave.first_read;
    if (is_turn || n_fetches - wave.first_read + span_missing.size() > wave_frames) {
      wave.end_span = span;
      wave.end_read = n_fetches;
      if (wave.end_span > wave.first_span) waves.push_back(wave);
      wave.first_span = span;
      wave.first_read = n_fetches;
    }
    fetches.insert(fetches.end(), span_missing.begin(), span_missing.end());
  }
  wave.end_span = end_span;
  wave.end_read = static_cast<uint32_t>(fetches.size());
  waves.push_back(wave);
}

/// What the CPU attends of a group beside the device.
void Walk::State::plan_waves_beside(uint32_t group_idx) {
  if (!device->is_spilling() || !cache.store().has_away() || is_selected) return;
  const uint32_t end_pos = groups[group_idx].first_pos + groups[group_idx].n_rows;
  for (uint32_t layer = 0; layer < shape.n_layers; ++layer) {
    const uint32_t first_pos = device->first_cpu_pos(layer, end_pos);
    if (shape.layers[layer].window > 0 || first_pos >= end_pos) continue;
    const size_t first_wave = waves.size();
    const size_t first_fetch = fetches.size();
    plan_group_waves(group_idx, layer, first_pos);
    if (fetches.size() == first_fetch) waves.resize(first_wave);
    counts.extents_attended += div_up(end_pos - first_pos, kExtentPositions);
  }
  counts.extents_missing += fetches.size();
  fetch_ahead();
}

void Walk::State::begin_waves() {
  waves.clear();
  fetches.clear();
  settled_ends.clear();
  next_wave = n_fetched = n_released = 0;
}

void Walk::State::plan_waves() {
  begin_waves();
  if (!cache.store().has_away() || is_selected) return;  // attend_chosen() reads what is chosen
  if (plan_settling()) return;
  for (uint32_t layer = 0; layer < shape.n_layers; ++layer)
    if (shape.layers[layer].window == 0) plan_layer_waves(layer);
  fetch_ahead();
}

/// Begins to read, as far as there are frames, or slots to read into.
void Walk::State::fetch_to(uint32_t end) {
  const uint32_t n_before = n_fetched;
  while (n_fetched < end && cache.store().fetch(fetches[n_fetched])) ++n_fetched;
  if (n_fetched > n_before) cache.store().poll();
}

/// What is used next.
void Walk::State::fetch_ahead() {
  if (reads_ahead) fetch_to(static_cast<uint32_t>(fetches.size()));
}

/// Waits for these, where it must, until so many are being read.
void Walk::State::fetch_until(uint32_t end) {
  const uint32_t end_ahead = reads_ahead ? static_cast<uint32_t>(fetches.size()) : end;
  for (fetch_to(end_ahead); n_fetched < end; fetch_to(end_ahead)) cache.wait_for_disk();
}

void Walk::State::drop_fetches() {
  while (n_released < n_fetched) cache.store().release(fetches[n_released++]);
  fetches.clear();
  waves.clear();
  settled_ends.clear();
  next_wave = n_fetched = n_released = 0;
}

void Walk::State::attend_streamed(uint32_t layer) {
  begin_runs();
  for (; next_wave < waves.size() && waves[next_wave].layer == layer; ++next_wave) {
    check_cancelled();
    const Wave& wave = waves[next_wave];
    fetch_until(wave.end_read);
    cache.store().take(std::span(fetches).subspan(wave.first_read, wave.end_read - wave.first_read),
                       pool);
    attend_wave(wave, 0, shape.layers[layer].n_kv_heads);
    while (n_released < wave.end_read) cache.store().release(fetches[n_released++]);
    fetch_ahead();
  }
  store_runs();
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
  // The index of the sequence holds what is computed again; a second one may have no room.
  Sequence again = sequence.fork(/*has_index=*/false);
  uint32_t pos = again.truncate(first_pos);
  const uint32_t end = std::min(first_pos + kExtentPositions, sequence.n_pos());
  std::vector<StepRow> rows;
  while (pos < end) {
    const uint32_t n = std::min({max_rows, kExtentPositions, end - pos});
    rows.clear();
    for (uint32_t i = pos; i < pos + n; ++i) rows.push_back({&again, sequence.tokens()[i], false});
    run_step(rows, Attention::kExact);
    const uint64_t n_replaced = cache.store().counts().replaced_blocks;
    cache.share_blocks(sequence, again, pos, std::min(pos + n, first_pos), true);
    if (cache.store().counts().replaced_blocks > n_replaced)
      counts.rows_made_exact += sequence.take_selected(pos, std::min(pos + n, first_pos));
    pos += n;
  }
  cache.replace_extents(sequence, again, first_pos);
  counts.rows_made_exact += sequence.take_selected(first_pos, end);
}

/// An earlier extent that is lost as well is repaired first, when the fork that met it is gone: so
/// there is one fork at a time, and memory for one. It stands at lower positions, so this ends.
/// What a silent disk has lost is not computed again: every other extent would be waited for as
/// long.
void Walk::State::repair(Sequence& sequence, const tiers::LostExtent& lost) {
  if (cache.store().is_disk_silent())
    throw cache.store().silent_error("nothing came back in " + std::to_string(tiers::kSilencesMax) +
                                     " deadlines one after the other");
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
