// engine/generator.h - from prompt tokens to an answer: prefill in chunks, then one token at a
// time, sampled, decoded, streamed.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/meet_in_the_middle.h"
#include "engine/sampler.h"
#include "engine/sequence.h"
#include "engine/text/tokenizer.h"
#include "engine/token_scores.h"
#include "engine/walk.h"

namespace strata::engine {

class AnswerConstraint;

enum class FinishReason : uint8_t {
  kStop,       // the model ended its answer, or a stop text came
  kLength,     // n_predict tokens, or the context is full
  kCancelled,  // a callback or the cancel flag said so
};
const char* finish_reason_name(FinishReason reason);  // "stop", "length", "cancelled"

struct GenerationRequest {
  std::span<const TokenId> prompt;  // the whole prompt, what the sequence already holds included
  uint32_t vocab_size = 0;          // of the model's logits
  uint64_t n_ctx = 0;               // prompt and answer together hold at most this many tokens
  uint64_t n_ctx_train = 0;         // of the model, for the remedy of an over-long prompt
  uint64_t n_predict = UINT64_MAX;  // most tokens of the answer
  uint32_t chunk_rows = 512;
  // kSelected: the answer selects, and so does the rest of a prompt whose beginning the sequence
  // holds, where the rest is a question (kQuestionTokensMax). Longer texts are read exactly up to
  // sparse_from, and from there on by selected chunks.
  Attention attention = Attention::kExact;
  uint64_t sparse_from = kNeverSparse;  // position in the prompt
  SamplerOptions sampler;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  // Of each token of the answer its score and so many of the likeliest are told; nothing = none is.
  std::optional<uint32_t> n_logprobs;
  // What the answer has to be, at its beginning; null = any text. Not with ignore_eos.
  std::shared_ptr<AnswerConstraint> constraint = nullptr;
  // Tokens that are guessed (engine/prompt_lookup.h) and walked beside the one that is known, at
  // most. What comes is what would come without, drawn by the same numbers. Selected answers guess
  // none: rows of a step share a choice, so their bits would depend on the guess.
  uint32_t n_draft_max = 0;
};

/// What n_draft_max is where nobody says.
inline constexpr uint32_t kDraftTokens = 16;

/// The longest rest of a prompt that is asked of what was read before, rather than read itself.
inline constexpr uint32_t kQuestionTokensMax = 256;

/// What the caller hears while it runs, on the calling thread. Returning false cancels.
struct GenerationEvents {
  std::function<bool(std::string_view text)> on_text;  // whole code points, stop texts left out
  std::function<bool(uint64_t done, uint64_t total)>
      on_prefill;  // prompt tokens in the cache, of the whole prompt
  // Before the text of the token; where GenerationRequest::n_logprobs says so.
  std::function<void(TokenScores scores)> on_scores;
  const std::atomic<bool>* cancel = nullptr;  // read between the operations of a step
};

struct TokenUsage {
  uint64_t prompt_tokens = 0;
  uint64_t cached_tokens = 0;  // of the prompt: the sequence held them already
  // Of the prompt: held or saved before, but computed again.
  uint64_t recomputed_tokens = 0;
  uint64_t completion_tokens = 0;
};

/// A step of one answer that guessed nothing.
struct LoneStep {
  uint32_t n_before;  // positions that stood before it
  float ms;           // from the token before it
};

struct GenerationTimes {
  double prefill_ms = 0;
  double ttft_ms = 0;            // from the call to the first sampled token
  double decode_ms = 0;          // after the first token
  uint64_t n_decode_tokens = 0;  // sampled after the first, one that ended the answer included
  uint64_t n_decode_steps = 0;   // that gave them
  std::vector<LoneStep> lone_steps;

  double prefill_tokens_per_s(const TokenUsage& usage) const;
  double tpot_ms() const;
  double decode_tokens_per_s() const;
};

/// Tokens that were guessed, and those of them that came.
struct DraftCounts {
  uint64_t proposed = 0;
  uint64_t accepted = 0;
};

struct Generation {
  std::string text;
  std::vector<TokenId> tokens;  // of the answer; the token that ended it is not among them
  FinishReason finish_reason = FinishReason::kStop;
  std::string stop_text;      // the stop text that ended it; empty = none did
  bool context_full = false;  // kLength because the context, not n_predict, ran out
  TokenUsage usage;
  Meeting meeting;  // of what was computed and what was read of a saved beginning
  GenerationTimes times;
  DraftCounts drafts;
};

/// Keeps what `sequence` and the prompt have in common, reads the rest, and answers. Afterwards the
/// sequence holds the prompt and the answer's tokens but the last, so the next turn's prompt finds
/// them cached. Errors: before any work ContextLengthError, those of Sampler and StopMatcher; then
/// those of Walk and exceptions of the callbacks, after which the sequence holds what was read and
/// can go on. Where it is cancelled during prefill the text is empty and the chunks read so far
/// stay; the flag ends a step within about one of its operations.
Generation generate(Walk& walk, Sequence& sequence, const Tokenizer& tokenizer,
                    const GenerationRequest& request, const GenerationEvents& events = {});

}  // namespace strata::engine
