#include "tools/rivals/events.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tools/rivals/position_rivals.h"
#include "tools/rivals/representatives.h"

namespace strata::rivals {
namespace {

/// Cosines of the keys [first, end), [n, n].
std::vector<double> cosines(const TraceCase& on, uint32_t stream, uint32_t first, uint32_t end) {
  const uint32_t n = end - first, n_dims = on.head_dim();
  std::vector<double> edges(uint64_t{n} * n);
  for (uint32_t a = 0; a < n; ++a)
    for (uint32_t b = 0; b <= a; ++b) {
      const float *x = on.key(stream, first + a), *y = on.key(stream, first + b);
      const double lengths = std::sqrt(double{dot(x, x, n_dims)} * double{dot(y, y, n_dims)});
      edges[a * n + b] = edges[b * n + a] = lengths > 0 ? dot(x, y, n_dims) / lengths : 0;
    }
  return edges;
}

/// Sums of edges, so that each cut takes two look-ups: [n + 1, n + 1], of the rectangle before.
std::vector<double> rectangle_sums(std::span<const double> edges, uint32_t n) {
  const uint64_t stride = uint64_t{n} + 1;
  std::vector<double> sums(stride * stride);
  for (uint32_t a = 0; a < n; ++a)
    for (uint32_t b = 0; b < n; ++b)
      sums[(a + 1) * stride + b + 1] = edges[a * n + b] + sums[a * stride + b + 1] +
                                       sums[(a + 1) * stride + b] - sums[a * stride + b];
  return sums;
}

/// sum over communities of inner / all - (degrees / all)^2: Newman's, with `all` both ways.
double modularity_of(std::span<const double> sums, uint32_t n, uint32_t cut) {
  const uint64_t stride = uint64_t{n} + 1;
  const double all = sums[n * stride + n];
  if (all <= 0) return 0;
  const double left = sums[cut * stride + cut], left_degrees = sums[cut * stride + n];
  const double right = all - 2 * left_degrees + left, right_degrees = all - left_degrees;
  return (left + right) / all -
         (left_degrees * left_degrees + right_degrees * right_degrees) / (all * all);
}

}  // namespace

double modularity(const TraceCase& on, uint32_t stream, uint32_t first, uint32_t cut,
                  uint32_t end) {
  const uint32_t n = end - first;
  return modularity_of(rectangle_sums(cosines(on, stream, first, end), n), n, cut - first);
}

std::vector<uint32_t> event_bounds(const TraceCase& on, uint32_t stream) {
  std::vector<uint32_t> bounds;
  for (uint32_t at = on.first(); at <= on.end(); at += kBlockPositions) bounds.push_back(at);
  for (size_t i = 1; i + 1 < bounds.size(); ++i) {
    const uint32_t first = bounds[i - 1], end = bounds[i + 1], n = end - first;
    const std::vector<double> sums = rectangle_sums(cosines(on, stream, first, end), n);
    const uint32_t from = n > kEventMax ? std::max(kEventMin, n - kEventMax) : kEventMin;
    const uint32_t to = std::min(n - kEventMin, kEventMax);
    uint32_t best = bounds[i] - first;
    for (uint32_t cut = from; cut <= to; ++cut)
      if (modularity_of(sums, n, cut) > modularity_of(sums, n, best)) best = cut;
    bounds[i] = first + best;
  }
  return bounds;
}

EventRival::EventRival(const TraceCase& on, uint32_t budget, bool is_exact)
    : on_(on), budget_(budget), is_exact_(is_exact), representatives_(on.n_streams()) {
  constexpr RepresentativeRule kRule;
  for (uint32_t stream = 0; stream < on.n_streams(); ++stream) {
    const std::vector<uint32_t>& bounds = bounds_.emplace_back(event_bounds(on, stream));
    if (is_exact) continue;
    const std::vector<float> scores = local_scores(on, stream, kRule.n_following);
    for (size_t event = 0; event + 1 < bounds.size(); ++event)
      representatives_[stream].push_back(
          representative(on, stream, bounds[event], bounds[event + 1], scores, kRule.n_keys));
  }
}

/// What events weigh, [n_events]: exact shares, or shares by representatives of as many keys.
std::vector<double> EventRival::pooled(uint32_t stream, uint32_t step) const {
  const std::vector<uint32_t>& bounds = bounds_[stream];
  std::vector<double> weights(bounds.size() - 1);
  if (is_exact_) {
    const std::vector<double> shares = pooled_shares(on_, stream, step);
    for (size_t event = 0; event < weights.size(); ++event)
      for (uint32_t at = bounds[event]; at < bounds[event + 1]; ++at)
        weights[event] += shares[at - on_.first()];
    return weights;
  }
  const std::vector<float> queries = on_.query(stream, step);
  for (uint32_t head = 0; head < on_.group(); ++head) {
    std::vector<double> of_head;
    for (size_t event = 0; event < weights.size(); ++event)
      of_head.push_back(std::log(bounds[event + 1] - bounds[event]) +
                        double{dot(queries.data() + uint64_t{head} * on_.head_dim(),
                                   representatives_[stream][event].data(), on_.head_dim())});
    const double top = *std::ranges::max_element(of_head);
    double all = 0;
    for (double& weight : of_head) all += weight = std::exp(weight - top);
    for (size_t event = 0; event < weights.size(); ++event) weights[event] += of_head[event] / all;
  }
  return weights;
}

std::vector<Attended> EventRival::attend(uint32_t stream, uint32_t step) {
  const std::vector<uint32_t>& bounds = bounds_[stream];
  std::vector<double> weights = pooled(stream, step);
  for (size_t event = 0; event < weights.size(); ++event)  // of most weight for each position
    weights[event] /= bounds[event + 1] - bounds[event];
  std::vector<uint32_t> order(weights.size());
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::stable_sort(order, [&](uint32_t a, uint32_t b) { return weights[a] > weights[b]; });
  Attended head;
  const uint32_t room = on_.room(budget_, step);
  for (const uint32_t event : order) {
    if (head.positions.size() + bounds[event + 1] - bounds[event] > room) continue;
    for (uint32_t at = bounds[event]; at < bounds[event + 1]; ++at) head.positions.push_back(at);
  }
  std::ranges::sort(head.positions);
  return std::vector<Attended>(on_.group(), head);
}

IndexBytes EventRival::bytes() const {
  if (is_exact_) return {};
  double n_events = 0;
  for (const auto& of : representatives_) n_events += static_cast<double>(of.size());
  const double bytes = n_events * (2.0 * on_.head_dim() + 2) / on_.n_streams() / on_.n_candidates();
  return {.kept = bytes, .read = bytes};
}

}  // namespace strata::rivals
