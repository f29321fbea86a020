#include "tiers/pack_eviction.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

#include "base/check.h"

namespace strata::tiers {
namespace {

/// From the ends of texts to their beginnings.
std::vector<uint32_t> by_falling_position(const std::vector<EvictionCandidate>& candidates) {
  std::vector<uint32_t> order(candidates.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](uint32_t a, uint32_t b) {
    return candidates[a].first_pos > candidates[b].first_pos;
  });
  return order;
}

}  // namespace

PackPlace PackPlace::of(const PackHead& head) {
  PackPlace place{.shape = shape_hash(head.run.shape),
                  .first_pos = head.run.first_pos,
                  .chain_before = head.run.chain_before,
                  .chains = {}};
  const uint32_t n_extents = head.n_positions() / kExtentPositions;
  place.chains.reserve(n_extents);
  for (uint32_t i = 0; i < n_extents; ++i)
    place.chains.push_back(head.chains[(i + 1) * kExtentBlocks - 1]);
  return place;
}

void link_texts(std::vector<EvictionCandidate>& candidates, std::span<const PackPlace> places) {
  STRATA_CHECK(places.size() == candidates.size(), "%zu places", places.size());
  const auto key_of = [](const Hash128& chain) { return std::pair(chain.low, chain.high); };
  std::multimap<std::pair<uint64_t, uint64_t>, uint32_t> begins;
  for (uint32_t i = 0; i < places.size(); ++i) {
    candidates[i].first_pos = places[i].first_pos;
    if (places[i].first_pos > 0) begins.emplace(key_of(places[i].chain_before), i);
  }
  for (uint32_t before = 0; before < places.size(); ++before)
    for (const Hash128& chain : places[before].chains)
      for (auto [at, end] = begins.equal_range(key_of(chain)); at != end; ++at)
        if (at->second != before && places[at->second].shape == places[before].shape)
          candidates[at->second].continues.push_back(before);
}

void pin_text(std::vector<EvictionCandidate>& candidates, uint32_t of) {
  const std::vector<uint32_t> order = by_falling_position(candidates);
  std::vector<bool> is_before(candidates.size()), is_behind(candidates.size());
  is_before[of] = is_behind[of] = true;
  for (const uint32_t i : order)
    for (const uint32_t before : candidates[i].continues)
      if (is_before[i]) is_before[before] = true;
  for (auto i = order.rbegin(); i != order.rend(); ++i)
    for (const uint32_t before : candidates[*i].continues)
      if (is_behind[before]) is_behind[*i] = true;
  for (uint32_t i = 0; i < candidates.size(); ++i)
    if (is_before[i] || is_behind[i]) candidates[i].is_pinned = true;
}

std::optional<std::vector<uint32_t>> plan_eviction(std::vector<EvictionCandidate> candidates,
                                                   uint64_t bytes_wanted) {
  // So a use is handed down the whole text.
  std::vector<uint32_t> order = by_falling_position(candidates);
  for (const uint32_t i : order) {
    for (const uint32_t before : candidates[i].continues)
      candidates[before].used_ns = std::max(candidates[before].used_ns, candidates[i].used_ns);
  }
  const auto rank = [&](uint32_t i) {
    const EvictionCandidate& candidate = candidates[i];
    return std::tuple(!candidate.is_damaged, candidate.used_ns, ~candidate.first_pos,
                      candidate.name);
  };
  std::ranges::sort(order, [&](uint32_t a, uint32_t b) { return rank(a) < rank(b); });
  std::vector<uint32_t> removed;
  uint64_t bytes = 0;
  for (const uint32_t i : order) {
    if (bytes >= bytes_wanted) break;
    if (candidates[i].is_pinned) continue;
    removed.push_back(i);
    bytes += candidates[i].bytes;
  }
  if (bytes < bytes_wanted) return std::nullopt;
  return removed;
}

}  // namespace strata::tiers
