// engine/walk_settle.cc - what an exact step reads of a restored context that DRAM has room for: it
// is read once, and stays.
//
// A pack has the layers of an extent side by side, so a disk is fastest where they are read
// together; but whatever is read before a layer's last byte is waited for by that layer. So runs of
// neighbouring layers are read, one after the other: a run of every extent in the order of the
// text, then the next run, while the layers of the one before are computed. Only the last run's
// layers are computed while nothing is read.
#include <algorithm>

#include "base/checked_math.h"
#include "engine/walk_state.h"

namespace strata::engine {
namespace {

// A stretch of a file that reading it in order is hardly faster than (docs/measurements.md).
constexpr uint64_t kStretchBytes = uint64_t{2} << 20;

}  // namespace

/// The missing extents of neighbouring layers, by positions.
void Walk::State::list_settling(uint32_t first_layer, uint32_t end_layer) {
  for (uint32_t idx = 0; idx < groups.size(); ++idx)
    for (uint32_t pos = 0; pos < groups[idx].held_pos; pos += kExtentPositions)
      for (uint32_t layer = first_layer; layer < end_layer; ++layer) {
        if (shape.layers[layer].window > 0) continue;
        if (!list_missing(idx, layer, pos, pos + kExtentPositions)) continue;
        fetches.insert(fetches.end(), span_missing.begin(), span_missing.end());
        settled_ends[layer] = static_cast<uint32_t>(fetches.size());
      }
}

/// Plans to take everything that is missing into DRAM. False where there is too little room, or a
/// spill file, which holds the extents by layers (BlockStore::take_place).
bool Walk::State::plan_settling() {
  const tiers::BlockStore& store = cache.store();
  if (store.has_spill()) return false;
  const auto layers_max = static_cast<uint32_t>(
      std::max<uint64_t>(1, kStretchBytes / store.transfers()->frame_bytes()));
  const auto run_layers =
      static_cast<uint32_t>(div_up(shape.n_layers, div_up(shape.n_layers, layers_max)));
  settled_stretch = run_layers;
  settled_max = 0;
  // Of the context, in whole extents, as they are taken: the last one may have blocks behind a
  // group's positions, which another sequence holds that it was forked from.
  uint64_t n_blocks = 0;
  for (const Group& group : groups)
    n_blocks += round_up(blocks_for(group.held_pos), kExtentBlocks) * cache.n_index_streams();
  const bool has_room_for_all = store.can_settle(n_blocks);
  settled_ends.assign(shape.n_layers, 0);
  for (uint32_t first = 0; first < shape.n_layers; first += run_layers) {
    list_settling(first, std::min(first + run_layers, shape.n_layers));
    if (has_room_for_all) fetch_stretches();  // the disk need not wait for the end of the list
  }
  if (has_room_for_all || store.can_settle(store.n_missing(fetches))) {
    fetch_stretches();
    return true;
  }
  fetches.clear();
  settled_ends.clear();
  return false;
}

/// How much is on its way at once, and asked for together: in frames, of which there are few, no
/// more than what makes small requests larger.
void Walk::State::plan_stretches() {
  const tiers::BlockStore& store = cache.store();
  const tiers::TransferQueue& transfers = *store.transfers();
  const bool is_in_place = store.reads_in_place(fetches.front());
  settled_max = is_in_place ? transfers.n_lent() : transfers.n_frames();
  if (is_in_place) return;
  const auto n_small =
      static_cast<uint32_t>(div_up(tiers::kSmallTransferBytes, transfers.frame_bytes()));
  settled_stretch = std::min(settled_stretch, n_small);
}

/// Asks for what comes next by whole stretches, so that each is one request: not for a part of one
/// as soon as there is room for that.
void Walk::State::fetch_stretches() {
  if (!reads_ahead || fetches.empty()) return;
  if (settled_max == 0) plan_stretches();
  const auto n_all = static_cast<uint32_t>(fetches.size());
  while (n_fetched < n_all) {
    const uint32_t end = std::min(n_fetched + settled_stretch, n_all);
    if (end - n_released > std::max(settled_max, settled_stretch)) break;
    fetch_to(end);
    if (n_fetched < end) break;
  }
}

/// Takes what has come, at most half of what can be on its way at a time: the disk has the other
/// half meanwhile.
void Walk::State::settle_arrived() {
  const uint32_t n_max = std::max(1u, settled_max / 2);
  while (n_released < fetches.size()) {
    cache.store().poll();
    uint32_t end = n_released;
    while (end < n_fetched && end - n_released < n_max && cache.store().has_arrived(fetches[end]))
      ++end;
    if (end == n_released) return;
    settle_until(end);
  }
}

/// Of `fetches`; waits for what has not come.
void Walk::State::settle_until(uint32_t end) {
  if (n_fetched < end) fetch_until(end);
  cache.store().take(std::span(fetches).subspan(n_released, end - n_released), pool);
  while (n_released < end) cache.store().release(fetches[n_released++]);
  fetch_stretches();
}

/// Waits until all of a layer is in DRAM.
void Walk::State::settle_layer(uint32_t layer) {
  for (settle_arrived(); n_released < settled_ends[layer]; settle_arrived()) {
    check_cancelled();
    settle_until(n_released + 1);
  }
}

}  // namespace strata::engine
