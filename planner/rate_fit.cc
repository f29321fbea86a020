#include "planner/rate_fit.h"

#include "base/check.h"

namespace strata::planner {

RateCurve fit_rate(std::span<const TimeSample> samples) {
  if (samples.empty()) return {};
  // Weighted by 1 / seconds^2: weight, bytes, bytes^2, seconds, bytes x seconds.
  double w = 0, wb = 0, wbb = 0, wt = 0, wbt = 0;
  for (const auto& [bytes, seconds] : samples) {
    STRATA_CHECK(bytes > 0 && seconds > 0, "%g bytes in %g s", bytes, seconds);
    const double weight = 1 / (seconds * seconds);
    w += weight;
    wb += weight * bytes;
    wbb += weight * bytes * bytes;
    wt += weight * seconds;
    wbt += weight * bytes * seconds;
  }
  const double determinant = w * wbb - wb * wb;
  const double alpha_s = (wt * wbb - wbt * wb) / determinant;
  const double s_per_byte = (w * wbt - wb * wt) / determinant;
  const bool is_line = determinant > 1e-12 * w * wbb && alpha_s >= 0 && s_per_byte > 0;
  if (is_line) return {.alpha_us = alpha_s * 1e6, .bytes_per_s = 1 / s_per_byte};
  return {.alpha_us = 0, .bytes_per_s = wbb / wbt};
}

}  // namespace strata::planner
