// tiers/pack_eviction.h - which packs go when room is needed; pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tiers/pack_format.h"

namespace strata::tiers {

/// Where in a text a pack lies: 64 bytes and 16 for each 256 positions, a small part of its head.
struct PackPlace {
  Hash128 shape;
  uint32_t first_pos = 0;
  Hash128 chain_before;
  std::vector<Hash128> chains;  // after each whole extent: where another pack may go on

  static PackPlace of(const PackHead& head);
};

struct EvictionCandidate {
  std::string name;
  uint64_t bytes = 0;
  int64_t used_ns = 0;  // last use
  uint32_t first_pos = 0;
  bool is_damaged = false;
  bool is_pinned = false;
  std::vector<uint32_t> continues;  // candidates (by index) that hold the block before its first
};

/// Says of every candidate where in its text it lies and what it continues. `places` as candidates;
/// those that are not known, as they are when made, continue nothing.
void link_texts(std::vector<EvictionCandidate>& candidates, std::span<const PackPlace> places);

/// Pins what belongs to a text with candidate `of`: itself, what it continues and what continues
/// it, directly or through others.
void pin_text(std::vector<EvictionCandidate>& candidates, uint32_t of);

/// Indexes of the candidates to remove, in order, until at least bytes_wanted are free; as few as
/// the order allows. Damaged packs go first, then the least recently used ones; a pack counts as
/// used when what continues it was used, since a text without its beginning is of no use.
/// Nothing where even all that is not pinned is too little.
std::optional<std::vector<uint32_t>> plan_eviction(std::vector<EvictionCandidate> candidates,
                                                   uint64_t bytes_wanted);

}  // namespace strata::tiers
