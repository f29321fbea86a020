// tools/cli/sample_statistics.h - what benches say about repeated measurements.
#pragma once

#include <vector>

namespace strata::cli {

/// Of at least one value.
double median(std::vector<double> values);
double mean(const std::vector<double>& values);
/// With n - 1, as llama-bench; 0 of one value.
double standard_deviation(const std::vector<double>& values);

}  // namespace strata::cli
