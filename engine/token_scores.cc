#include "engine/token_scores.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"

namespace strata::engine {
namespace {

constexpr double kImpossible = -std::numeric_limits<double>::infinity();

double possible(float logit) { return std::isnan(logit) ? kImpossible : logit; }

}  // namespace

TokenScores score_token(std::span<const float> logits, TokenId token, uint32_t n_likeliest) {
  STRATA_CHECK(token >= 0 && static_cast<size_t>(token) < logits.size(), "token %d of %zu", token,
               logits.size());
  double highest = kImpossible;
  for (const float logit : logits) highest = std::max(highest, possible(logit));
  // Of infinite ones each gets an equal share, and what is finite none.
  const auto relative = [&](float logit) {
    const double value = possible(logit);
    return value == highest ? 0.0 : value - highest;
  };
  double sum = 0;
  for (const float logit : logits) sum += std::exp(relative(logit));
  const double log_sum = std::log(sum);
  const auto logprob = [&](TokenId of) {
    return TokenLogprob{of, relative(logits[static_cast<size_t>(of)]) - log_sum};
  };
  TokenScores scores{logprob(token), {}};
  std::vector<TokenId> ids(n_likeliest == 0 ? 0 : logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto n_kept = static_cast<std::ptrdiff_t>(std::min<size_t>(n_likeliest, ids.size()));
  std::partial_sort(ids.begin(), ids.begin() + n_kept, ids.end(), [&](TokenId a, TokenId b) {
    const double of_a = possible(logits[static_cast<size_t>(a)]);
    const double of_b = possible(logits[static_cast<size_t>(b)]);
    return of_a != of_b ? of_a > of_b : a < b;
  });
  for (std::ptrdiff_t i = 0; i < n_kept; ++i)
    scores.likeliest.push_back(logprob(ids[static_cast<size_t>(i)]));
  return scores;
}

}  // namespace strata::engine
