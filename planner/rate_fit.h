// planner/rate_fit.h - a line through measured times: what moving some bytes costs at all, and what
// each byte costs.
#pragma once

#include <span>

#include "planner/machine_profile.h"

namespace strata::planner {

struct TimeSample {
  double bytes = 0;
  double seconds = 0;
};

/// alpha + bytes / rate with the least sum of squared relative errors, alpha not below 0: a time of
/// a microsecond counts as much as one of a second. Samples are positive; of one alone, or of such
/// that do not grow with bytes, alpha is 0. No sample gives a curve of zeros.
RateCurve fit_rate(std::span<const TimeSample> samples);

}  // namespace strata::planner
