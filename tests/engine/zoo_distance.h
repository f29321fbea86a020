// tests/engine/zoo_distance.h - how far a walk's logits are from the double-precision reference.
#pragma once

#include <cmath>
#include <vector>

#include "tests/engine/zoo_fixture.h"
#include "tests/oracle/estimate.h"

namespace strata::engine::testing {

/// How far logits are from the reference, in its deviations.
struct Distance {
  double largest = 0;
  double root_mean_square = 0;
};

inline Distance distance_of(const Logits& logits, const std::vector<oracle::Estimates>& reference) {
  Distance distance;
  double squares = 0, n = 0;
  for (size_t row = 0; row < reference.size(); ++row) {
    for (size_t i = 0; i < reference[row].size(); ++i) {
      const oracle::Estimate& wanted = reference[row][i];
      const double square =
          std::pow(static_cast<double>(logits[row][i]) - wanted.value, 2) / wanted.variance;
      squares += square;
      n += 1;
      if (!(square > distance.largest)) continue;  // NaN shows in root_mean_square
      distance.largest = square;
    }
  }
  return {std::sqrt(distance.largest), std::sqrt(squares / n)};
}

}  // namespace strata::engine::testing
