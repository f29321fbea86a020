// engine/text/merge.h - the merge loop that SPM and BPE share: the best-ranked adjacent pair
// becomes one symbol, until none is left. Why: a text of one letter is a single word of a million
// symbols, so one merge must cost O(log n), not a pass over the word. How: symbols form a linked
// list in an array; a heap holds (rank, left symbol) of every pair that may merge. A symbol keeps
// the rank of its present pair, so an entry of the heap is stale exactly where the two ranks
// differ. Cost: at most 3n pair look-ups and as many heap entries of 8 bytes for n symbols.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "engine/text/tokenizer.h"

namespace strata::engine {

inline constexpr uint32_t kNoMerge = UINT32_MAX;   // as a rank
inline constexpr uint32_t kNoSymbol = UINT32_MAX;  // as a link

/// What a pair of neighbours becomes. Lower ranks merge first; of equal ranks the leftmost.
struct MergeCandidate {
  uint32_t rank = kNoMerge;
  TokenId token = kNoToken;
};

/// A stretch of the text. `token` is kNoToken where no token was looked up for it or none exists.
struct MergeSymbol {
  uint32_t begin = 0;
  uint32_t bytes = 0;
  TokenId token = kNoToken;
  uint32_t previous = kNoSymbol;
  uint32_t next = kNoSymbol;
  MergeCandidate pair = {};  // with `next`
};

/// Memory that is used again from word to word of one call.
struct MergeScratch {
  std::vector<MergeSymbol> symbols;
  std::vector<uint64_t> queue;
};

/// Merges scratch.symbols in place; the survivors are those reached from symbol 0 through `next`.
/// candidate_of(left, right) -> MergeCandidate.
template <typename CandidateOf>
void merge_pairs(MergeScratch& scratch, const CandidateOf& candidate_of, EncodeWork& work) {
  std::vector<MergeSymbol>& symbols = scratch.symbols;
  std::vector<uint64_t>& queue = scratch.queue;
  queue.clear();
  const auto n_symbols = static_cast<uint32_t>(symbols.size());
  const auto rate = [&](uint32_t left) {  // true where the pair of `left` is a candidate
    MergeSymbol& symbol = symbols[left];
    symbol.pair = {};
    if (symbol.next == kNoSymbol) return false;
    ++work.lookups;
    symbol.pair = candidate_of(symbol, symbols[symbol.next]);
    return symbol.pair.rank != kNoMerge;
  };
  const auto entry_of = [&](uint32_t left) {
    return uint64_t{symbols[left].pair.rank} << 32 | left;
  };
  for (uint32_t i = 0; i < n_symbols; ++i) {
    symbols[i].previous = i == 0 ? kNoSymbol : i - 1;
    symbols[i].next = i + 1 == n_symbols ? kNoSymbol : i + 1;
    if (rate(i)) queue.push_back(entry_of(i));
  }
  std::make_heap(queue.begin(), queue.end(), std::greater<>{});
  const auto push = [&](uint32_t left) {
    if (!rate(left)) return;
    queue.push_back(entry_of(left));
    std::push_heap(queue.begin(), queue.end(), std::greater<>{});
  };
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), std::greater<>{});
    const uint64_t entry = queue.back();
    queue.pop_back();
    ++work.queue_pops;
    const auto left = static_cast<uint32_t>(entry);
    MergeSymbol& symbol = symbols[left];
    if (symbol.pair.rank != entry >> 32) continue;
    MergeSymbol& right = symbols[symbol.next];
    symbol.bytes += right.bytes;
    symbol.token = symbol.pair.token;
    symbol.next = right.next;
    right.pair = {};  // its entries are stale from here on
    if (symbol.next != kNoSymbol) symbols[symbol.next].previous = left;
    push(left);
    if (symbol.previous != kNoSymbol) push(symbol.previous);
  }
}

}  // namespace strata::engine
