// tools/eval/summary.h - what is said of many measured values.
#pragma once

#include <cstdint>
#include <vector>

namespace strata::eval {

/// All 0 where there are no values.
struct Summary {
  uint64_t n = 0;
  double mean = 0;
  double error = 0;  // standard error of the mean, values taken as independent
  double least = 0;
  double p10 = 0, median = 0, p99 = 0;  // the value at rank ceil(share * n)
};

Summary summarise(std::vector<double> values);

}  // namespace strata::eval
