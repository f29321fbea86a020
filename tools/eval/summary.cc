#include "tools/eval/summary.h"

#include <algorithm>
#include <cmath>

namespace strata::eval {
namespace {

double at_rank(const std::vector<double>& sorted, double share) {
  const double rank = std::ceil(share * static_cast<double>(sorted.size()));
  return sorted[static_cast<size_t>(std::max(rank, 1.0)) - 1];
}

}  // namespace

Summary summarise(std::vector<double> values) {
  if (values.empty()) return {};
  std::ranges::sort(values);
  const auto n = static_cast<double>(values.size());
  Summary of{.n = values.size()};
  for (const double value : values) of.mean += value / n;
  double squares = 0;
  for (const double value : values) squares += (value - of.mean) * (value - of.mean);
  if (values.size() > 1) of.error = std::sqrt(squares / (n - 1) / n);
  of.least = values.front();
  of.p10 = at_rank(values, 0.10);
  of.median = at_rank(values, 0.50);
  of.p99 = at_rank(values, 0.99);
  return of;
}

}  // namespace strata::eval
