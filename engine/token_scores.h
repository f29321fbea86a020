// engine/token_scores.h - how likely a model found a token, and which it found the likeliest: the
// logarithm of softmax over the raw logits, before a sampler has changed anything.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/text/tokenizer.h"

namespace strata::engine {

struct TokenLogprob {
  TokenId token = 0;
  double logprob = 0;  // natural; -infinity = impossible
};

struct TokenScores {
  TokenLogprob token;
  std::vector<TokenLogprob> likeliest;  // falling; of equal ones the lower id first
};

/// Of a token of logits [vocab_size], and the n likeliest. NaN counts as impossible, as with
/// Sampler. Costs one exp per logit; the sum is one of doubles in the order of the ids.
TokenScores score_token(std::span<const float> logits, TokenId token, uint32_t n_likeliest);

}  // namespace strata::engine
