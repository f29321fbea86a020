// engine/text/merge.h - the merge loop that SPM and BPE share: the best-ranked pair of neighbours
// becomes one symbol. Why: a text of one letter is a single word of a million symbols, so one merge
// must cost O(log n), not a pass over the word.
//
// Symbols form a linked list in an array; a queue holds (rank, left symbol) of every pair that may
// merge. A symbol keeps the rank of its present pair, so a key of the queue is stale exactly where
// the two ranks differ.
//
// Cost  at most 3n pair look-ups and as many keys of 8 bytes for n symbols of 24 bytes
#pragma once

#include <cstdint>
#include <vector>

#include "engine/text/bulk_allocator.h"
#include "engine/text/merge_queue.h"
#include "engine/text/tokenizer.h"

namespace strata::engine {

inline constexpr uint32_t kNoMerge = UINT32_MAX;   // as a rank
inline constexpr uint32_t kNoSymbol = UINT32_MAX;  // as a link

/// What a pair of neighbours becomes. Lower ranks merge first; of equal ranks the leftmost.
struct MergeCandidate {
  uint32_t rank = kNoMerge;
  TokenId token = kNoToken;
};

/// A stretch of the text, from `begin` to that of the next symbol. `token` is kNoToken where no
/// token was looked up for it or none exists.
struct MergeSymbol {
  uint32_t begin = 0;
  TokenId token = kNoToken;
  uint32_t previous = kNoSymbol;
  uint32_t next = kNoSymbol;
  MergeCandidate pair = {};  // with `next`
};

using MergeSymbols = std::vector<MergeSymbol, BulkAllocator<MergeSymbol>>;

/// Memory that is used again from word to word of one call.
struct MergeScratch {
  MergeSymbols symbols;
  MergeQueue queue;
};

/// Merges scratch.symbols in place; the survivors are those reached from symbol 0 through `next`.
/// candidate_of(left, right) -> MergeCandidate, where both are MergeSymbols.
template <typename CandidateOf>
void merge_pairs(MergeScratch& scratch, const CandidateOf& candidate_of, EncodeWork& work) {
  MergeSymbols& symbols = scratch.symbols;
  scratch.queue.reset(symbols.size());
  const auto rate = [&](uint32_t left) {
    MergeSymbol& symbol = symbols[left];
    symbol.pair = {};
    if (symbol.next == kNoSymbol) return;
    ++work.lookups;
    symbol.pair = candidate_of(symbol, symbols[symbol.next]);
    if (symbol.pair.rank != kNoMerge) scratch.queue.push(uint64_t{symbol.pair.rank} << 32 | left);
  };
  const auto n_symbols = static_cast<uint32_t>(symbols.size());
  for (uint32_t i = 0; i < n_symbols; ++i) {
    symbols[i].previous = i == 0 ? kNoSymbol : i - 1;
    symbols[i].next = i + 1 == n_symbols ? kNoSymbol : i + 1;
  }
  for (uint32_t i = 0; i < n_symbols; ++i) rate(i);
  for (uint64_t key = 0; scratch.queue.pop(key);) {
    ++work.queue_pops;
    const auto left = static_cast<uint32_t>(key);
    MergeSymbol& symbol = symbols[left];
    if (symbol.pair.rank != key >> 32) continue;
    MergeSymbol& right = symbols[symbol.next];
    symbol.token = symbol.pair.token;
    symbol.next = right.next;
    right.pair = {};  // its keys are stale from here on
    if (symbol.next != kNoSymbol) symbols[symbol.next].previous = left;
    rate(left);
    if (symbol.previous != kNoSymbol) rate(symbol.previous);
  }
}

}  // namespace strata::engine
