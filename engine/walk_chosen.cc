// engine/walk_chosen.cc - attention over chosen blocks of which some are in a file.
//
// A wave is as many spans of a group's chosen context, in order, as can be in DRAM at a time:
// most often all of a layer. Its blocks are pinned, those that are in DRAM too, so that what was
// attended last leaves DRAM last. Where some are missing, each KV head is attended as soon as its
// own are there: the disk reads those of the next head meanwhile, and then those of the next wave.
//
// On a device a wave is as many of the blocks that it has no copies of as can be in DRAM at a time.
#include <algorithm>
#include <array>
#include <utility>

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

/// The blocks that a KV head of a wave's group attends in a span, but for those still open.
std::span<const tiers::BlockId> Walk::State::chosen_of(uint32_t group_idx, uint32_t layer,
                                                       uint32_t kv_head, uint32_t span) const {
  const HeadTable table = head_table(group_idx, layer, kv_head);
  const uint32_t begin = span * kSpanPositions;
  const uint32_t end = std::min(begin + kSpanPositions,
                                table.end_of(span, groups[group_idx].held_pos - table.n_skipped));
  if (end <= begin) return {};
  return {table.blocks + begin / kBlockPositions, blocks_for(end - begin)};
}

uint64_t Walk::State::n_frozen(uint32_t group_idx, uint32_t layer, uint32_t span) const {
  uint64_t n = 0;
  for (uint32_t head = 0; head < shape.layers[layer].n_kv_heads; ++head)
    n += static_cast<uint64_t>(
        std::ranges::count_if(chosen_of(group_idx, layer, head, span),
                              [&](tiers::BlockId id) { return cache.store().is_frozen(id); }));
  return n;
}

/// Appends what the wave attends and what can leave DRAM to selection->reads, a KV head after the
/// other: they are read in this order.
void Walk::State::list_wave(Wave& wave) {
  wave.first_read = static_cast<uint32_t>(selection->reads.size());
  for (uint32_t head = 0; head < shape.layers[wave.layer].n_kv_heads; ++head)
    for (uint32_t span = wave.first_span; span < wave.end_span; ++span)
      for (const tiers::BlockId id : chosen_of(wave.group, wave.layer, head, span))
        if (cache.store().is_frozen(id)) selection->reads.push_back(id);
  wave.end_read = static_cast<uint32_t>(selection->reads.size());
}

void Walk::State::plan_chosen(uint32_t layer) {
  selection->waves.clear();
  selection->reads.clear();
  const uint64_t n_pinnable = cache.store().n_pinnable();
  for (uint32_t idx = 0; idx < groups.size(); ++idx) {
    const Group& group = groups[idx];
    uint32_t last_pos = 0;  // of the longest table
    for (uint32_t head = 0; head < shape.layers[layer].n_kv_heads; ++head)
      last_pos = std::max(
          last_pos, group.first_pos + group.n_rows - 1 - head_table(idx, layer, head).n_skipped);
    const uint32_t end_span = last_pos / kSpanPositions + 1;
    Wave wave{layer, idx, 0, 0, 0, 0};
    uint64_t n_reads = 0;
    const auto end_wave = [&](uint32_t at_span) {
      wave.end_span = at_span;
      list_wave(wave);
      selection->waves.push_back(wave);
      wave.first_span = at_span;
      n_reads = 0;
    };
    for (uint32_t span = 0; span < end_span; ++span) {
      const uint64_t n = n_frozen(idx, layer, span);
      if (span > wave.first_span && n_reads + n > n_pinnable) end_wave(span);
      n_reads += n;
    }
    end_wave(end_span);
  }
}

std::span<const tiers::BlockId> Walk::State::reads_of(const Wave& wave) const {
  return std::span(selection->reads).subspan(wave.first_read, wave.end_read - wave.first_read);
}

uint64_t Walk::State::n_missing(std::span<const tiers::BlockId> blocks) const {
  return static_cast<uint64_t>(std::ranges::count_if(
      blocks, [&](tiers::BlockId id) { return !cache.store().is_resident(id); }));
}

/// Whether a step reads a block without the disk: in DRAM, or the copy that a device has of it.
bool Walk::State::is_at_hand(tiers::BlockId block) const {
  return cache.store().is_resident(block) || (device && device->has_copy(block));
}

/// Pins what a wave attends, and begins to read what is missing. False where DRAM does not hold
/// all of it after all, because what was to leave could not be written, and less of it may do.
bool Walk::State::begin_pins(std::span<const tiers::BlockId> blocks, bool is_least) {
  try {
    cache.store().begin_pin(blocks);
  } catch (const tiers::LostExtent&) {
    throw;
  } catch (const Error& error) {
    const bool is_full = error.code() == ErrorCode::kIo || error.code() == ErrorCode::kDoesNotFit;
    if (!is_full || is_least) throw;
    return false;
  }
  return true;
}

/// Waits for blocks of a wave. What is in DRAM takes no time, and is no event.
void Walk::State::finish_pins(uint32_t layer, std::span<const tiers::BlockId> blocks) {
  const uint64_t n = n_missing(blocks);
  if (n == 0) return;
  const TraceScope scope(trace, {.kind = TraceKind::kOperation,
                                 .index = layer,
                                 .name = "pin_blocks",
                                 .bytes = n * cache.layout().block_bytes});
  cache.store().finish_pin(blocks, pool);
}

/// Attends a wave that is begun.
void Walk::State::attend_begun(const Wave& wave) {
  const uint32_t n_heads = shape.layers[wave.layer].n_kv_heads;
  if (!reads_ahead) {
    finish_pins(wave.layer, reads_of(wave));
    return attend_wave(wave, 0, n_heads);
  }
  const auto blocks_of = [&](uint32_t head, uint32_t span) {
    return chosen_of(wave.group, wave.layer, head, span);
  };
  const auto is_there = [&](uint32_t head) {
    for (uint32_t span = wave.first_span; span < wave.end_span; ++span)
      if (n_missing(blocks_of(head, span)) > 0) return false;
    return true;
  };
  // Neighbouring heads that lack nothing go together, for one alone does not feed many threads.
  for (uint32_t head = 0, end = 0; head < n_heads; head = end) {
    for (uint32_t span = wave.first_span; span < wave.end_span; ++span)
      finish_pins(wave.layer, blocks_of(head, span));
    for (end = head + 1; end < n_heads && is_there(end);) ++end;
    if (end == n_heads)
      cache.store().begin_blocks(std::span(selection->reads).subspan(wave.end_read));
    attend_wave(wave, head, end);
  }
}

/// In two halves, and these in theirs, where DRAM does not hold it. What each reads is listed anew:
/// blocks that could not be written are not frozen any more.
void Walk::State::attend_pinned(const Wave& wave) {
  check_cancelled();
  if (begin_pins(reads_of(wave), wave.end_span - wave.first_span == 1)) {
    const UnpinScope pinned(cache.store(), reads_of(wave));
    return attend_begun(wave);
  }
  std::array<Wave, 2> halves = {wave, wave};
  halves[0].end_span = halves[1].first_span =
      wave.first_span + (wave.end_span - wave.first_span) / 2;
  for (Wave& half : halves) list_wave(half);
  for (const Wave& half : halves) attend_pinned(half);
}

/// What a layer has pinned and read since.
void Walk::State::count_chosen(const tiers::StoreCounts& before) {
  const tiers::BlockStore& store = cache.store();
  const uint64_t file_bytes = store.transfer_counts().read_bytes;
  SelectionCounts& sums = selection->counts;
  sums.pinned_blocks += store.counts().blocks_pinned - before.blocks_pinned;
  sums.missing_blocks += store.counts().blocks_read - before.blocks_read;
  sums.file_bytes += file_bytes - std::exchange(selection->file_bytes_before, file_bytes);
}

void Walk::State::attend_chosen(uint32_t layer) {
  plan_chosen(layer);
  begin_runs();
  const tiers::StoreCounts before = cache.store().counts();
  for (const Wave& wave : selection->waves) attend_pinned(wave);
  store_runs();
  count_chosen(before);
}

/// Pins as many of the blocks as DRAM holds, from the first on, and waits for them: a device gets
/// copies before let_go_chosen(). Returns how many; those that cannot leave DRAM are among them.
size_t Walk::State::bring_chosen(uint32_t layer, std::span<const tiers::BlockId> blocks) {
  tiers::BlockStore& store = cache.store();
  std::vector<tiers::BlockId>& pinned = selection->reads;
  const tiers::StoreCounts before = store.counts();
  size_t n = 0;
  for (uint64_t n_most = std::max<uint64_t>(1, store.n_pinnable());; n_most = pinned.size() / 2) {
    pinned.clear();
    for (n = 0; n < blocks.size(); ++n) {
      if (!store.is_frozen(blocks[n])) continue;
      if (pinned.size() == n_most) break;
      pinned.push_back(blocks[n]);
    }
    if (begin_pins(pinned, /*is_least=*/pinned.size() <= 1)) break;
  }
  selection->n_brought = pinned.size();
  finish_pins(layer, pinned);
  if (reads_ahead) store.begin_blocks(blocks.subspan(n));
  count_chosen(before);
  return n;
}

/// Of what was brought the device has copies by now, which are read from now on, or has none.
void Walk::State::let_go_chosen(bool are_copied) {
  const size_t n = std::exchange(selection->n_brought, 0);
  cache.store().unpin(std::span(selection->reads).first(n), /*is_elsewhere=*/are_copied);
}

}  // namespace strata::engine
