#include "tools/rivals/position_rivals.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace strata::rivals {
namespace {

/// Adds the shares of one query.
void add_shares(std::span<const double> scores, std::span<double> sums) {
  const double top = *std::ranges::max_element(scores);
  double all = 0;
  for (const double score : scores) all += std::exp(score - top);
  for (size_t i = 0; i < scores.size(); ++i) sums[i] += std::exp(scores[i] - top) / all;
}

/// Errors are drawn anew for each query, and are the same in every run.
std::vector<double> candidate_scores(const TraceCase& on, uint32_t stream, uint32_t step,
                                     uint32_t head, double error) {
  const auto exact = on.scores(stream, step, head).subspan(on.first(), on.n_candidates());
  std::vector<double> scores(exact.begin(), exact.end());
  if (error == 0) return scores;
  std::mt19937_64 random((uint64_t{stream} * on.n_judged() + step) * on.group() + head);
  std::normal_distribution<double> normal(0, error);
  for (double& score : scores) score += normal(random);
  return scores;
}

}  // namespace

std::vector<uint32_t> largest_positions(const TraceCase& on, std::span<const double> values,
                                        uint32_t n) {
  std::vector<uint32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto before = [&](uint32_t a, uint32_t b) {
    return values[a] != values[b] ? values[a] > values[b] : a < b;
  };
  n = std::min(n, static_cast<uint32_t>(order.size()));
  std::ranges::nth_element(order, order.begin() + n, before);
  order.resize(n);
  std::ranges::sort(order);
  for (uint32_t& at : order) at += on.first();
  return order;
}

std::vector<double> pooled_shares(const TraceCase& on, uint32_t stream, uint32_t step,
                                  double score_error) {
  std::vector<double> sums(on.n_candidates());
  for (uint32_t head = 0; head < on.group(); ++head)
    add_shares(candidate_scores(on, stream, step, head, score_error), sums);
  return sums;
}

std::vector<Attended> BestPositions::attend(uint32_t stream, uint32_t step) {
  const uint32_t n = on_.room(budget_, step);
  if (is_of_group_)
    return std::vector<Attended>(
        on_.group(),
        {.positions = largest_positions(on_, pooled_shares(on_, stream, step, score_error_), n)});
  std::vector<Attended> heads(on_.group());
  for (uint32_t head = 0; head < on_.group(); ++head)
    heads[head].positions =
        largest_positions(on_, candidate_scores(on_, stream, step, head, score_error_), n);
  return heads;
}

std::vector<Attended> RepeatedChoice::attend(uint32_t stream, uint32_t step) {
  if (step % every_ != 0) return kept_;
  kept_ = chooser_->attend(stream, step);
  if (!attends_all_) return kept_;
  Attended all;
  all.positions.resize(on_.n_candidates());
  std::iota(all.positions.begin(), all.positions.end(), on_.first());
  return std::vector<Attended>(on_.group(), all);
}

IndexBytes RepeatedChoice::bytes() const {
  IndexBytes bytes = chooser_->bytes();
  bytes.read /= every_;
  return bytes;
}

}  // namespace strata::rivals
