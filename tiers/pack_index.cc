#include "tiers/pack_index.h"

#include <algorithm>
#include <functional>
#include <unordered_set>

#include "base/check.h"

namespace strata::tiers {
namespace {

uint32_t n_whole_blocks(const PackHead& head) { return head.n_positions() / kBlockPositions; }

const Hash128& chain_before_block(const PackHead& head, uint32_t block) {
  return block == 0 ? head.run.chain_before : head.chains[block - 1];
}

uint64_t n_present(const PackHead& head) {
  return static_cast<uint64_t>(std::ranges::count(head.presence, uint8_t{1}));
}

/// One pack's part of a cover, in positions of the text.
struct Part {
  const std::pair<const std::string, PackHead>* pack = nullptr;
  uint32_t first_pos = 0;  // a multiple of 32
  uint32_t end_pos = 0;

  uint32_t n_blocks() const {
    return (end_pos - first_pos + kBlockPositions - 1) / kBlockPositions;
  }
  uint32_t first_block() const {
    return (first_pos - pack->second.run.first_pos) / kBlockPositions;
  }
};

/// Cuts the parts so that the text ends before `end_pos`, a multiple of 32 or the end itself.
void cut(std::vector<Part>& parts, uint32_t end_pos) {
  while (!parts.empty() && parts.back().first_pos >= end_pos) parts.pop_back();
  if (!parts.empty()) parts.back().end_pos = std::min(parts.back().end_pos, end_pos);
}

/// Marks the blocks of the cover after which the layer can go on: those before that the next
/// position attends to are there.
void mark_usable_ends(const std::vector<Part>& parts, uint32_t layer, uint32_t window,
                      std::vector<uint8_t>& usable) {
  uint32_t n_in_row = 0;
  uint32_t at = 0;
  for (const Part& part : parts) {
    for (uint32_t i = 0; i < part.n_blocks(); ++i, ++at) {
      n_in_row = part.pack->second.has(layer, part.first_block() + i) ? n_in_row + 1 : 0;
      const uint32_t n_positions = std::min((at + 1) * kBlockPositions, parts.back().end_pos);
      const uint32_t first_seen = n_positions >= window ? n_positions - window + 1 : 0;
      if (n_in_row < at + 1 - std::min(first_seen / kBlockPositions, at + 1)) usable[at] = 0;
    }
  }
}

/// Cuts the cover after the last block from which every layer can go on.
void cut_to_usable_end(const PackShape& shape, std::vector<Part>& parts) {
  uint32_t n_blocks = 0;
  for (const Part& part : parts) n_blocks += part.n_blocks();
  std::vector<uint8_t> usable(n_blocks, 1);
  for (uint32_t layer = 0; layer < shape.layers.size(); ++layer) {
    const PackLayer& of_layer = shape.layers[layer];
    if (of_layer.window > 0 && of_layer.n_kv_heads > 0)
      mark_usable_ends(parts, layer, of_layer.window, usable);
  }
  while (n_blocks > 0 && usable[n_blocks - 1] == 0) --n_blocks;
  cut(parts, n_blocks * kBlockPositions);
}

/// Of two runs that begin behind the same text.
bool is_beginning_of(const PackHead& shorter, const PackHead& longer) {
  const PackRun& run = shorter.run;
  const size_t n = run.tokens.size();
  const bool is_text =
      n < longer.run.tokens.size() && run.shape == longer.run.shape &&
      run.first_pos == longer.run.first_pos &&
      std::ranges::equal(run.tokens, std::span(longer.run.tokens).first(n)) &&
      std::ranges::equal(run.is_generated, std::span(longer.run.is_generated).first(n));
  if (!is_text) return false;
  for (uint32_t layer = 0; layer < shorter.n_layers(); ++layer)
    for (uint32_t block = 0; block < shorter.n_blocks(); ++block)
      if (shorter.has(layer, block) && !longer.has(layer, block)) return false;
  return true;
}

uint32_t end_of(const std::vector<Part>& parts) { return parts.empty() ? 0 : parts.back().end_pos; }

}  // namespace

/// A hash lies in a node of its own, with a name of the file.
uint64_t PackIndex::bytes_of(const PackHead& head) {
  constexpr uint64_t kPerPack = 1024;
  constexpr uint64_t kPerBlock = sizeof(Hash128) + 64;
  return kPerPack + head.n_positions() * (sizeof(int32_t) + uint64_t{1}) +
         head.n_blocks() * kPerBlock + head.presence.size();
}

void PackIndex::add(const std::string& name, PackHead head, int64_t used_ns) {
  const auto [place, is_added] = heads_.emplace(name, std::move(head));
  used_ns_[name] = used_ns;
  if (!is_added) return;
  const PackHead& added = place->second;
  bytes_ += bytes_of(added);
  for (uint32_t i = 0; i < n_whole_blocks(added); ++i)
    whole_blocks_.emplace(added.chains[i], &*place);
  if (added.n_positions() % kBlockPositions != 0)
    short_blocks_.emplace(chain_before_block(added, added.n_blocks() - 1), &*place);
  begins_.emplace(added.run.chain_before, &*place);
}

void PackIndex::remove(const std::string& name) {
  const auto place = heads_.find(name);
  if (place == heads_.end()) return;
  const auto remove_from = [&](Places& places, const Hash128& chain) {
    auto [at, end] = places.equal_range(chain);
    while (at != end) at = at->second == &*place ? places.erase(at) : std::next(at);
  };
  const PackHead& head = place->second;
  for (uint32_t i = 0; i < n_whole_blocks(head); ++i) remove_from(whole_blocks_, head.chains[i]);
  remove_from(short_blocks_, chain_before_block(head, head.n_blocks() - 1));
  remove_from(begins_, head.run.chain_before);
  bytes_ -= bytes_of(head);
  heads_.erase(place);
  used_ns_.erase(name);
}

void PackIndex::use(const std::string& name, int64_t used_ns) {
  if (const auto at = used_ns_.find(name); at != used_ns_.end()) at->second = used_ns;
}

std::vector<std::string> PackIndex::covered_by(const PackHead& head) const {
  std::vector<std::string> covered;
  for (auto [at, end] = begins_.equal_range(head.run.chain_before); at != end; ++at)
    if (is_beginning_of(at->second->second, head)) covered.push_back(at->second->first);
  return covered;
}

std::optional<PackIndex::Use> PackIndex::oldest() const {
  std::optional<Use> oldest;
  for (const auto& [pack, used_ns] : used_ns_)
    if (const Use use{used_ns, pack}; !oldest || use < *oldest) oldest = use;
  return oldest;
}

KnownText PackIndex::find_text(const PackShape& shape, const Hash128& root, std::string_view text,
                               const TokenBytes& bytes_of) const {
  TextMatch match(text, bytes_of);
  std::unordered_set<Hash128, HashOfHash> seen;
  // As deep as packs follow each other: a call for each 256 positions at most.
  const std::function<void(const Hash128&, uint32_t)> follow = [&](const Hash128& chain,
                                                                   uint32_t pos) {
    if (!seen.insert(chain).second) return;
    std::vector<Places::mapped_type> packs;
    for (auto [at, end] = begins_.equal_range(chain); at != end; ++at) {
      const PackRun& run = at->second->second.run;
      if (run.first_pos == pos && run.shape == shape) packs.push_back(at->second);
    }
    // Of two that agree as far, one must be taken in every process.
    std::ranges::sort(
        packs, {}, [](const auto* pack) -> const auto& { return pack->first; });
    for (const auto* pack : packs) {
      const PackHead& head = pack->second;
      const uint32_t end = match.follow(pos, head.run.tokens, head.run.is_generated);
      // The later ones first: what they follow leaves the tokens before it.
      for (uint32_t next = end / kExtentPositions * kExtentPositions; next > pos;
           next -= kExtentPositions)
        follow(head.chains[(next - pos) / kBlockPositions - 1], next);
    }
  };
  follow(root, 0);
  return match.take_best();
}

std::vector<PackIndex::Match> PackIndex::matches_of(const PackShape& shape, const Hash128& root,
                                                    std::span<const int32_t> tokens) const {
  std::map<const std::map<std::string, PackHead>::value_type*, uint32_t> ends;
  Hash128 chain = root;
  for (uint32_t pos = 0; pos < tokens.size(); pos += kBlockPositions) {
    const auto [first_short, end_short] = short_blocks_.equal_range(chain);
    for (auto at = first_short; at != end_short; ++at) {
      const PackHead& head = at->second->second;
      const uint32_t n_rows = head.n_positions() % kBlockPositions;
      const bool is_text =
          head.end_pos() == pos + n_rows && n_rows <= tokens.size() - pos &&
          std::ranges::equal(tokens.subspan(pos, n_rows), std::span(head.run.tokens).last(n_rows));
      if (is_text && head.run.shape == shape) ends[at->second] = head.end_pos();
    }
    if (tokens.size() - pos < kBlockPositions) break;
    chain = extend_chain(chain, tokens.subspan(pos, kBlockPositions));
    // A chain hash after a block covers all before it: this block matches, so do the earlier ones.
    const auto [first, end] = whole_blocks_.equal_range(chain);
    for (auto at = first; at != end; ++at) {
      // And the pack must have it at this position: its rows were rotated by it.
      const PackHead& head = at->second->second;
      const bool is_at_pos = head.run.first_pos <= pos && head.end_pos() > pos &&
                             head.chains[(pos - head.run.first_pos) / kBlockPositions] == chain;
      if (is_at_pos && head.run.shape == shape) ends[at->second] = pos + kBlockPositions;
    }
  }
  std::vector<Match> matches;
  for (const auto& [pack, end_pos] : ends) matches.push_back({pack, end_pos});
  // Where two packs reach as far, the one that lacks fewer blocks is taken; then the order of
  // names, which is the same in every process.
  std::ranges::sort(matches, [](const Match& a, const Match& b) {
    if (a.end_pos != b.end_pos) return a.end_pos > b.end_pos;
    const uint64_t in_a = n_present(a.pack->second);
    const uint64_t in_b = n_present(b.pack->second);
    return in_a != in_b ? in_a > in_b : a.pack->first < b.pack->first;
  });
  return matches;
}

TextCover PackIndex::find(const PackShape& shape, const Hash128& root,
                          std::span<const int32_t> tokens) const {
  const std::vector<Match> matches = matches_of(shape, root, tokens);
  // Parts that reach as far as they can, from position 0 on, and up to `limit` at most.
  const auto cover = [&](uint32_t limit) {
    std::vector<Part> parts;
    while (end_of(parts) < limit) {
      const uint32_t block_pos = end_of(parts) / kBlockPositions * kBlockPositions;
      const auto next = std::ranges::find_if(matches, [&](const Match& match) {
        return match.pack->second.run.first_pos <= block_pos;
      });
      if (next == matches.end() || next->end_pos <= end_of(parts)) break;
      cut(parts, block_pos);
      parts.push_back({next->pack, block_pos, next->end_pos});
    }
    cut(parts, limit);
    return parts;
  };
  // Where layers have windows, the longest cover may lack the rows that its end needs, and a
  // shorter one may have them: each pack is tried as the last one.
  std::vector<Part> best;
  for (const Match& last : matches) {
    if (last.end_pos <= end_of(best)) break;
    const uint32_t first_pos = last.pack->second.run.first_pos;
    std::vector<Part> parts = cover(first_pos);
    if (end_of(parts) != first_pos) continue;
    parts.push_back({last.pack, first_pos, last.end_pos});
    cut_to_usable_end(shape, parts);
    if (end_of(parts) > end_of(best)) best = std::move(parts);
  }
  TextCover found;
  for (const Part& part : best)
    found.stretches.push_back(
        {part.pack->first, part.first_block(), part.n_blocks(), part.end_pos - part.first_pos});
  found.n_positions = end_of(best);
  return found;
}

}  // namespace strata::tiers
