// tests/engine/zoo_distance.h - how far a walk's logits are from the double-precision reference.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <span>
#include <vector>

#include "tests/engine/zoo_fixture.h"
#include "tests/oracle/estimate.h"
#include "tests/oracle/reference_forward.h"

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

/// Of a model file, with K and V at rest as a codec keeps them.
inline std::vector<oracle::Estimates> reference_of(const GgufFile& file,
                                                   std::span<const int32_t> tokens,
                                                   KvCodec codec = KvCodec::kF16) {
  return oracle::reference_logits(oracle::read_reference_model(file, 0), tokens,
                                  {oracle::resting(codec), oracle::resting(codec)});
}

inline void expect_near(const Logits& logits, const std::vector<oracle::Estimates>& reference) {
  ASSERT_EQ(logits.size(), reference.size());
  const Distance distance = distance_of(logits, reference);
  EXPECT_LE(distance.root_mean_square, oracle::kDeviationsOverall);
  EXPECT_LE(distance.largest, oracle::kDeviations);
}

}  // namespace strata::engine::testing
