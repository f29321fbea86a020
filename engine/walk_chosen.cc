// engine/walk_chosen.cc - attention over chosen blocks of which some are in a file.
//
// A wave is as many spans of a group's chosen context, in order, as can be in DRAM at a time:
// most often all of a layer. Its blocks are pinned, those that are in DRAM too, so that what was
// attended last leaves DRAM last. While one wave is attended, blocks of the next are read.
#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/error.h"
#include "engine/walk_select.h"

namespace strata::engine {
namespace {

/// Lets go of pinned blocks where its scope ends, also by an exception.
class UnpinScope {
 public:
  UnpinScope(tiers::BlockStore& store, std::span<const tiers::BlockId> blocks)
      : store_(store), blocks_(blocks) {}
  ~UnpinScope() { store_.unpin(blocks_); }
  UnpinScope(const UnpinScope&) = delete;
  UnpinScope& operator=(const UnpinScope&) = delete;

 private:
  tiers::BlockStore& store_;
  std::span<const tiers::BlockId> blocks_;
};

}  // namespace

uint64_t chosen_blocks_min(const ModelShape& shape, uint64_t n_ctx) {
  uint64_t n_kv_heads = 0;
  for (const LayerShape& layer : shape.layers)
    if (layer.window == 0) n_kv_heads = std::max<uint64_t>(n_kv_heads, layer.n_kv_heads);
  return n_kv_heads * std::min<uint64_t>(kSpanPositions / kBlockPositions, blocks_for(n_ctx));
}

/// Whether some of what a layer has chosen may be in a file, now or later.
bool Walk::State::reads_chosen(uint32_t layer) const {
  return is_selected && shape.layers[layer].window == 0 && cache.store().can_read_blocks();
}

/// Appends to selection->reads what the KV heads of a group attend in a span and what can leave
/// DRAM, head by head: neighbours in the text are often neighbours in a file.
void Walk::State::list_frozen(uint32_t group_idx, uint32_t layer, uint32_t span) {
  for (uint32_t head = 0; head < shape.layers[layer].n_kv_heads; ++head) {
    const HeadTable table = head_table(group_idx, layer, head);
    const uint32_t begin = span * kSpanPositions;
    const uint32_t end = std::min(begin + kSpanPositions,
                                  table.end_of(span, groups[group_idx].held_pos - table.n_skipped));
    for (uint32_t pos = begin; pos < end; pos += kBlockPositions)
      if (cache.store().is_frozen(table.at(pos))) selection->reads.push_back(table.at(pos));
  }
}

void Walk::State::plan_chosen(uint32_t layer) {
  std::vector<Wave>& planned = selection->waves;
  std::vector<tiers::BlockId>& reads = selection->reads;
  planned.clear();
  reads.clear();
  const uint64_t n_pinnable = cache.store().n_pinnable();
  for (uint32_t idx = 0; idx < groups.size(); ++idx) {
    const Group& group = groups[idx];
    uint32_t last_pos = 0;  // of the longest table
    for (uint32_t head = 0; head < shape.layers[layer].n_kv_heads; ++head)
      last_pos = std::max(
          last_pos, group.first_pos + group.n_rows - 1 - head_table(idx, layer, head).n_skipped);
    const uint32_t end_span = last_pos / kSpanPositions + 1;
    Wave wave{layer, idx, 0, 0, static_cast<uint32_t>(reads.size()), 0};
    const auto end_wave = [&](uint32_t at_span, uint32_t at_read) {
      wave.end_span = at_span;
      wave.end_read = at_read;
      planned.push_back(wave);
      wave.first_span = at_span;
      wave.first_read = at_read;
    };
    for (uint32_t span = 0; span < end_span; ++span) {
      const auto n_listed = static_cast<uint32_t>(reads.size());
      list_frozen(idx, layer, span);
      if (span > wave.first_span && reads.size() - wave.first_read > n_pinnable)
        end_wave(span, n_listed);
    }
    end_wave(end_span, static_cast<uint32_t>(reads.size()));
  }
}

std::span<const tiers::BlockId> Walk::State::reads_of(const Wave& wave) const {
  return std::span(selection->reads).subspan(wave.first_read, wave.end_read - wave.first_read);
}

/// What is in DRAM takes no time, and is no event. False where DRAM does not hold all of it after
/// all, because what was to leave could not be written, and fewer spans may do.
bool Walk::State::pin_chosen(const Wave& wave) {
  tiers::BlockStore& store = cache.store();
  const std::span<const tiers::BlockId> blocks = reads_of(wave);
  const auto n_missing = static_cast<uint64_t>(
      std::ranges::count_if(blocks, [&](tiers::BlockId id) { return !store.is_resident(id); }));
  const TraceScope scope(n_missing > 0 ? trace : nullptr,
                         {.kind = TraceKind::kOperation,
                          .index = wave.layer,
                          .name = "pin_blocks",
                          .bytes = n_missing * cache.layout().block_bytes});
  try {
    store.pin(blocks, pool);
  } catch (const tiers::LostExtent&) {
    throw;
  } catch (const Error& error) {
    const bool is_full = error.code() == ErrorCode::kIo || error.code() == ErrorCode::kDoesNotFit;
    if (!is_full || wave.end_span - wave.first_span == 1) throw;
    return false;
  }
  return true;
}

/// In two halves, and these in theirs, where DRAM does not hold it. What each reads is listed anew:
/// blocks that could not be written are not frozen any more.
void Walk::State::attend_pinned(const Wave& wave) {
  check_cancelled();
  if (pin_chosen(wave)) {
    const UnpinScope pinned(cache.store(), reads_of(wave));
    if (reads_ahead) cache.store().begin_blocks(std::span(selection->reads).subspan(wave.end_read));
    return attend_wave(wave);
  }
  std::array<Wave, 2> halves = {wave, wave};
  halves[0].end_span = halves[1].first_span =
      wave.first_span + (wave.end_span - wave.first_span) / 2;
  for (Wave& half : halves) {
    half.first_read = static_cast<uint32_t>(selection->reads.size());
    for (uint32_t span = half.first_span; span < half.end_span; ++span)
      list_frozen(wave.group, wave.layer, span);
    half.end_read = static_cast<uint32_t>(selection->reads.size());
  }
  for (const Wave& half : halves) attend_pinned(half);
}

void Walk::State::attend_chosen(uint32_t layer) {
  tiers::BlockStore& store = cache.store();
  plan_chosen(layer);
  begin_runs();
  const tiers::StoreCounts before = store.counts();
  for (const Wave& wave : selection->waves) attend_pinned(wave);
  store_runs();
  SelectionCounts& sums = selection->counts;
  sums.pinned_blocks += store.counts().blocks_pinned - before.blocks_pinned;
  sums.missing_blocks += store.counts().blocks_read - before.blocks_read;
  sums.file_bytes += store.transfer_counts().read_bytes - selection->file_bytes_before;
}

}  // namespace strata::engine
