// engine/prompt_lookup.h - guesses what comes next from what has come before: what stood behind the
// last tokens where they stood earlier.
// Why: an answer that quotes its document repeats long runs of it, and several rows of a step cost
// little more than one: they share what is read of weights, K and V
// (docs/adr/0017-prompt-lookup.md).
// Source: prompt lookup decoding (Saxena 2023).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "engine/text/tokenizer.h"

namespace strata::engine {

/// Of one text that only grows. The last position of every run of 2 and of 3 tokens is known by a
/// hash table that is compared with the text, so nothing is found that is not there.
/// Cost  append: two look-ups; propose: one copy, no look-up. Memory: bytes(), all of it taken by
///       the constructor.
class PromptLookup {
 public:
  static constexpr uint32_t kRunMin = 2, kRunMax = 3;  // tokens that must agree

  /// For texts of at most so many tokens.
  explicit PromptLookup(uint64_t n_tokens_max);
  static uint64_t bytes(uint64_t n_tokens_max);

  /// No more than n_tokens_max are appended.
  void append(TokenId token);
  /// Appends to `draft` n tokens that stood behind the most recent earlier occurrence of the last
  /// three tokens, else of the last two; none where those are new. An occurrence that runs into the
  /// end goes on with what it has proposed, as a text of one repeated run does.
  void propose(uint32_t n, std::vector<TokenId>& draft) const;

 private:
  static constexpr uint32_t kLengths = kRunMax - kRunMin + 1;
  uint32_t& slot_of_last(uint32_t run);

  uint64_t n_slots_;  // of each table
  std::vector<TokenId> text_;
  // [kLengths][n_slots_] where the run ends that hashes there, as a number of tokens; 0 = nowhere.
  // Slots that are taken are passed over (linear probing).
  std::vector<uint32_t> ends_;
  // Where the last runs ended before, per length; 0 = they are new.
  std::array<uint32_t, kLengths> earlier_ = {};
};

}  // namespace strata::engine
