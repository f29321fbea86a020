#include "tools/cli/sample_statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace strata::cli {

double median(std::vector<double> values) {
  STRATA_CHECK(!values.empty(), "no values");
  std::ranges::sort(values);
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

double mean(const std::vector<double>& values) {
  STRATA_CHECK(!values.empty(), "no values");
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double standard_deviation(const std::vector<double>& values) {
  if (values.size() < 2) return 0;
  const double centre = mean(values);
  double squares = 0;
  for (const double value : values) squares += (value - centre) * (value - centre);
  return std::sqrt(squares / static_cast<double>(values.size() - 1));
}

double quantile(std::vector<double> values, double share) {
  STRATA_CHECK(!values.empty() && share >= 0 && share <= 1, "%zu values, %g of them", values.size(),
               share);
  std::ranges::sort(values);
  const double rank = std::ceil(share * static_cast<double>(values.size()));
  return values[static_cast<size_t>(std::max(1.0, rank)) - 1];
}

double OrderCounts::tau() const { return n_a > 0 && n_b > 0 ? agreed / std::sqrt(n_a * n_b) : 0; }

void OrderCounts::add(const OrderCounts& more) {
  agreed += more.agreed;
  n_a += more.n_a;
  n_b += more.n_b;
}

OrderCounts count_order(const std::vector<double>& a, const std::vector<double>& b,
                        double least_share) {
  STRATA_CHECK(a.size() == b.size(), "%zu and %zu values", a.size(), b.size());
  OrderCounts counts;
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t j = 0; j < i; ++j) {
      const auto [least, most] = std::minmax(b[i], b[j]);
      if (least_share > 0 && most <= (1 + least_share) * least) continue;
      const int of_a = (a[i] > a[j]) - (a[i] < a[j]), of_b = (b[i] > b[j]) - (b[i] < b[j]);
      counts.agreed += of_a * of_b;
      counts.n_a += of_a != 0;
      counts.n_b += of_b != 0;
    }
  return counts;
}

}  // namespace strata::cli
