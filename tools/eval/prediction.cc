#include "tools/eval/prediction.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.h"
#include "base/error.h"

namespace strata::eval {
namespace {

double log_sum_exp(std::span<const float> logits) {
  const double top = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum);
}

}  // namespace

void check_finite(std::span<const float> logits) {
  const auto bad = std::ranges::find_if_not(logits, [](float x) { return std::isfinite(x); });
  if (bad == logits.end()) return;
  throw Error(ErrorCode::kBadFile,
              "the model's logits are not finite: token " + std::to_string(bad - logits.begin()),
              "logits", "check the model file with `strata inspect --check`");
}

int32_t likeliest(std::span<const float> logits) {
  return static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
}

Prediction compare_logits(std::span<const float> exact, std::span<const float> other,
                          int32_t next) {
  STRATA_CHECK(
      exact.size() == other.size() && next >= 0 && static_cast<size_t>(next) < exact.size(),
      "%zu and %zu logits, next token %d", exact.size(), other.size(), next);
  check_finite(exact);
  check_finite(other);
  const double exact_total = log_sum_exp(exact);
  const double other_total = log_sum_exp(other);
  Prediction of;
  for (size_t i = 0; i < exact.size(); ++i) {
    const double log_p = exact[i] - exact_total;
    of.kl += std::exp(log_p) * (log_p - (other[i] - other_total));
  }
  of.kl = std::max(of.kl, 0.0);  // rounding alone can make it negative
  const auto idx = static_cast<size_t>(next);
  of.exact_nll = exact_total - exact[idx];
  of.nll = other_total - other[idx];
  of.same_top = likeliest(exact) == likeliest(other);
  return of;
}

Agreement agreement_of(std::span<const Prediction> predictions) {
  Agreement of;
  if (predictions.empty()) return of;
  const auto n = static_cast<double>(predictions.size());
  std::vector<double> kl;
  double exact_nll = 0, nll = 0;
  uint64_t n_same = 0;
  for (const Prediction& prediction : predictions) {
    kl.push_back(prediction.kl);
    exact_nll += prediction.exact_nll / n;
    nll += prediction.nll / n;
    n_same += prediction.same_top ? 1u : 0u;
  }
  of.kl = summarise(std::move(kl));
  of.top1 = static_cast<double>(n_same) / n;
  of.exact_perplexity = std::exp(exact_nll);
  of.perplexity = std::exp(nll);
  return of;
}

}  // namespace strata::eval
