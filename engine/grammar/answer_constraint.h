// engine/grammar/answer_constraint.h - which tokens may come next where an answer has to be JSON of
// a schema.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/grammar/json_machine.h"
#include "engine/grammar/token_table.h"

namespace strata::engine {

/// One answer's. Every allowed token leaves the answer completable, by bytes: a vocabulary without
/// tokens of single bytes may still have none that goes on (then nothing is allowed).
/// Cost: a state that was met before costs a look-up; one that is new, a walk over the vocabulary
/// (about 0.1 ms where few tokens fit, 1 ms per 50,000 tokens that do, times the ways that are open
/// at once). States of a string whose bounds no token reaches share one mask.
/// Memory: kBytesMax of states and masks, and what the bytes of one token add (each a state of at
/// most kStateBytesMax and 1 KiB); when it is full, they are begun anew.
/// Errors: kUsage, of allowed and accept (more ways open at once than kWaysMax or kStateBytesMax).
/// Threads: one at a time.
class AnswerConstraint {
 public:
  static constexpr uint64_t kBytesMax = 16u << 20;
  static constexpr uint64_t kStateBytesMax = 64u << 10;  // of its stacks
  // An undecided anyOf is followed in so many ways. Literals and the keys of an object do not
  // count: each byte of theirs leaves fewer.
  static constexpr uint32_t kWaysMax = 64;

  AnswerConstraint(std::shared_ptr<const TokenTable> tokens, JsonGrammar grammar);

  /// Bit t % 64 of word t / 64: token t may come next. End tokens where the value is complete.
  /// Valid until the next call.
  std::span<const uint64_t> allowed();
  /// `token` is one that was allowed. Nothing follows an end token.
  void accept(TokenId token);
  /// The answer may end here.
  bool is_complete() const;
  /// The answer ends here: it is complete, and no byte may follow.
  bool is_over();
  /// Of the states and masks that are known at present.
  uint64_t held_bytes() const { return held_bytes_; }

 private:
  struct State {
    std::vector<GrammarStack> stacks;  // sorted, each once; none = dead
    std::vector<uint32_t> next;        // [256], kUnknown = not yet asked for
    std::vector<uint64_t> mask;        // empty = not yet asked for
    bool is_complete = false;
  };
  static constexpr uint32_t kUnknown = UINT32_MAX;
  static constexpr uint32_t kDead = 0;

  uint32_t state_of(std::vector<GrammarStack> stacks);
  uint32_t step(uint32_t state, uint8_t byte);
  uint32_t mask_state();
  uint32_t fill_mask(uint32_t state);
  void begin_anew(std::vector<GrammarStack> current);

  const std::shared_ptr<const TokenTable> tokens_;
  const JsonGrammar grammar_;
  std::vector<std::unique_ptr<State>> states_;
  std::unordered_multimap<uint64_t, uint32_t> known_;  // by the hash of their stacks
  uint32_t current_ = kDead;
  uint64_t held_bytes_ = 0;
  bool has_ended_ = false;
  std::vector<uint32_t> path_;  // of fill_mask
};

}  // namespace strata::engine
