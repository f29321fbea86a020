// tools/cli/sample_statistics.h - what benches say about repeated measurements.
#pragma once

#include <vector>

namespace strata::cli {

/// Of at least one value.
double median(std::vector<double> values);
double mean(const std::vector<double>& values);
/// With n - 1, as llama-bench; 0 of one value.
double standard_deviation(const std::vector<double>& values);

/// The value that a share of them stays at or below.
double quantile(std::vector<double> values, double share);

/// Two orders of the same things, pair by pair.
struct OrderCounts {
  double agreed = 0;        // pairs in the same order in both, less those the other way round
  double n_a = 0, n_b = 0;  // pairs that are no tie in the one and in the other
  /// Kendall's tau-b: 1 = the same order, -1 = the other way round; 0 where one is no order.
  double tau() const;
  void add(const OrderCounts& more);
};
/// Of the pairs whose values in `b` differ by more than that share of the smaller one.
OrderCounts count_order(const std::vector<double>& a, const std::vector<double>& b,
                        double least_share = 0);

}  // namespace strata::cli
