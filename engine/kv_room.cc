#include "engine/kv_room.h"

#include <algorithm>
#include <vector>

#include "base/checked_math.h"

namespace strata::engine {
namespace {

/// Blocks of one stream, or of all.
struct Demand {
  uint64_t resident = 0;  // in slots, each once
  uint64_t absent = 0;    // in no slot
  uint64_t growth = 0;    // to come
  uint64_t all() const { return resident + absent + growth; }
  void add(const Demand& of, uint64_t n_streams) {
    resident += of.resident * n_streams;
    absent += of.absent * n_streams;
    growth += of.growth * n_streams;
  }
};

/// Blocks that a sequence's stream of a full layer has to come: it keeps what it has. An open block
/// that others refer to is copied and stays; a frozen one that nobody else has goes when it is.
uint64_t growth_of(const Sequence& sequence, uint64_t most, std::span<const tiers::BlockId> blocks,
                   bool is_shared, bool is_frozen) {
  const uint64_t growth = most - std::min<uint64_t>(most, blocks.size());
  if (sequence.n_pos() % kBlockPositions == 0) return growth;
  if (is_shared) return growth + 1;
  return is_frozen ? std::max<uint64_t>(growth, 1) : growth;
}

Demand demand_of_layer(const KvCache& cache, uint32_t layer, std::span<const SequenceGoal> goals,
                       bool has_others) {
  const LayerShape& of_layer = cache.shape().layers[layer];
  const tiers::BlockStore& store = cache.store();
  Demand demand;
  const auto blocks_of = [&](const SequenceGoal& goal) {
    return cache.stream_blocks(*goal.sequence, layer, 0).blocks;
  };
  const auto is_shared = [&](tiers::BlockId block) {
    if (has_others) return store.references(block) > 1;
    return std::ranges::count_if(goals, [&](const SequenceGoal& goal) {
             const auto blocks = blocks_of(goal);
             return std::ranges::find(blocks.rbegin(), blocks.rend(), block) != blocks.rend();
           }) > 1;
  };
  std::vector<tiers::BlockId> held;
  for (const SequenceGoal& goal : goals) {
    const auto blocks = blocks_of(goal);
    held.insert(held.end(), blocks.begin(), blocks.end());
    const uint64_t n_goal = std::max<uint64_t>(goal.n_positions, goal.sequence->n_pos());
    const uint64_t most = stream_blocks_max(of_layer, n_goal, cache.chunk_rows());
    if (of_layer.window > 0 || blocks.empty())
      demand.growth += most;
    else
      demand.growth += growth_of(*goal.sequence, most, blocks, is_shared(blocks.back()),
                                 store.is_frozen(blocks.back()));
  }
  std::ranges::sort(held);
  uint64_t n_freed = 0;  // by the time that these sequences have let go of what they hold
  for (auto at = held.begin(); at != held.end();) {
    const auto end = std::find_if(at, held.end(), [&](tiers::BlockId id) { return id != *at; });
    ++(store.is_resident(*at) ? demand.resident : demand.absent);
    if (!has_others || store.references(*at) == end - at) ++n_freed;
    at = end;
  }
  // A windowed stream lets go of blocks as it takes others: no more than its most at any time.
  if (of_layer.window > 0) demand.growth -= std::min(demand.growth, n_freed);
  return demand;
}

struct Demands {
  Demand windowed, full;  // of all streams of such layers
  Demand full_stream;     // of one
  uint64_t n_full_streams = 0;
};

/// All streams of layers with one window have the same tables, so one of each kind is looked at.
Demands demands_of(const KvCache& cache, std::span<const SequenceGoal> goals, bool has_others) {
  Demands demands;
  std::vector<std::pair<uint32_t, Demand>> of_windows;
  const ModelShape& shape = cache.shape();
  for (uint32_t layer = 0; layer < shape.n_layers; ++layer) {
    const LayerShape& of = shape.layers[layer];
    if (of.n_kv_heads == 0) continue;
    auto known = std::ranges::find(of_windows, of.window, &std::pair<uint32_t, Demand>::first);
    if (known == of_windows.end())
      known =
          of_windows.insert(known, {of.window, demand_of_layer(cache, layer, goals, has_others)});
    (of.window > 0 ? demands.windowed : demands.full).add(known->second, of.n_kv_heads);
    if (of.window > 0) continue;
    demands.full_stream = known->second;
    demands.n_full_streams += of.n_kv_heads;
  }
  return demands;
}

/// Of full layers that spill: the extent that each sequence fills and the one before, which may be
/// on its way to the disk, and the chunks of one prompt, as smallest_spilling_dram() has it.
uint64_t slots_that_stay(const KvCache& cache, const Demands& demands,
                         std::span<const SequenceGoal> goals) {
  uint64_t n_blocks = blocks_for(2 * round_up(cache.chunk_rows(), kExtentPositions));
  for (const SequenceGoal& goal : goals)
    n_blocks += std::min<uint64_t>(blocks_for(goal.n_positions), uint64_t{2} * kExtentBlocks);
  return demands.windowed.all() + n_blocks * demands.n_full_streams;
}

bool holds_spilling(const KvCache& cache, std::span<const SequenceGoal> goals, bool has_others) {
  const Demands demands = demands_of(cache, goals, has_others);
  if (slots_that_stay(cache, demands, goals) > cache.pool().n_slots()) return false;
  if (has_others && demands.windowed.growth + demands.windowed.absent > cache.store().n_pinnable())
    return false;
  const auto n_full_layers = static_cast<uint64_t>(
      std::ranges::count(cache.shape().layers, uint32_t{0}, &LayerShape::window));
  const tiers::PlaceSource& places = *cache.store().places();
  const Demand& of = demands.full_stream;
  // An extent that sequences share in part has a place for each of them.
  const uint64_t n_blocks = of.growth + (has_others ? 0 : of.resident + of.absent);
  const uint64_t n_extents = div_up(n_blocks, kExtentBlocks) + goals.size();
  const uint64_t used = has_others ? places.used_bytes() : 0;
  return used + n_extents * n_full_layers * places.place_bytes() <= places.budget_bytes();
}

}  // namespace

bool could_hold(const KvCache& cache, std::span<const SequenceGoal> goals) {
  if (cache.store().has_spill()) return holds_spilling(cache, goals, false);
  const Demands demands = demands_of(cache, goals, false);
  return demands.windowed.all() + demands.full.all() <= cache.pool().n_slots();
}

bool can_hold(const KvCache& cache, std::span<const SequenceGoal> goals) {
  if (cache.store().has_spill()) return holds_spilling(cache, goals, true);
  Demand to_come;
  const Demands demands = demands_of(cache, goals, true);
  to_come.add(demands.windowed, 1);
  to_come.add(demands.full, 1);
  return to_come.growth + to_come.absent <= cache.pool().n_free();
}

}  // namespace strata::engine
