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
/// (about 0.1 ms where few tokens fit, 1 ms per 50,000 tokens that do). Memory: at most
/// kStatesMax states of 1 KiB and their masks, begun anew when they are full.
/// Threads: one at a time.
class AnswerConstraint {
 public:
  static constexpr uint32_t kStatesMax = 4096;
  static constexpr uint32_t kMasksMax = 256;
  // An undecided anyOf is followed in so many ways; the rest is never an answer.
  static constexpr uint32_t kStacksMax = 512;

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

 private:
  struct State {
    std::vector<GrammarStack> stacks;  // each once; none = dead
    std::vector<uint32_t> next;        // [256], kUnknown = not yet asked for
    std::vector<uint64_t> mask;        // empty = not yet asked for
    bool is_complete = false;
  };
  static constexpr uint32_t kUnknown = UINT32_MAX;
  static constexpr uint32_t kDead = 0;

  uint32_t state_of(std::vector<GrammarStack> stacks);
  uint32_t step(uint32_t state, uint8_t byte);
  void fill_mask(uint32_t state);
  void begin_anew();

  const std::shared_ptr<const TokenTable> tokens_;
  const JsonGrammar grammar_;
  std::vector<std::unique_ptr<State>> states_;
  std::unordered_multimap<uint64_t, uint32_t> known_;  // by the hash of their stacks
  uint32_t current_ = kDead;
  uint32_t n_masks_ = 0;
  bool has_ended_ = false;
  std::vector<uint32_t> path_;  // of fill_mask
};

}  // namespace strata::engine
