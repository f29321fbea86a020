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
/// Kendall's tau-b of two orders of the same things: 1 = the same order, -1 = the other way round;
/// 0 where one of them is no order.
double kendall_tau(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace strata::cli
