// tools/eval/prediction.h - how far the next-token distribution of an approximate step is from the
// exact one's.
#pragma once

#include <cstdint>
#include <span>

#include "tools/eval/summary.h"

namespace strata::eval {

/// One teacher-forced token. In nats.
struct Prediction {
  double kl = 0;         // KL(exact || other)
  double exact_nll = 0;  // -ln p of the token that the text has next
  double nll = 0;
  bool same_top = false;  // both find the same token likeliest; of equals the first
};

/// Logits [vocab_size] of two steps after the same text; `next` is the text's next token. Sums in
/// double. Errors: kBadFile where a logit is not finite.
Prediction compare_logits(std::span<const float> exact, std::span<const float> other, int32_t next);

/// Throws Error(kBadFile) where a logit is not finite.
void check_finite(std::span<const float> logits);

/// Of equals the first.
int32_t likeliest(std::span<const float> logits);

struct Agreement {
  Summary kl;
  double top1 = 0;  // share of tokens with the same likeliest one
  double exact_perplexity = 0;
  double perplexity = 0;
};
Agreement agreement_of(std::span<const Prediction> predictions);

}  // namespace strata::eval
