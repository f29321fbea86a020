#include "base/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace strata {
namespace {

/// The value of an f16 by the format's definition, in double.
double value_of(uint16_t h) {
  const double sign = (h & 0x8000) != 0 ? -1 : 1;
  const int exponent = (h >> 10) & 31;
  const int mantissa = h & 1023;
  if (exponent == 31)
    return mantissa != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  return exponent == 0 ? sign * std::ldexp(mantissa, -24)
                       : sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(Half, EveryF16HasItsValue) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const float got = f16_to_f32(static_cast<uint16_t>(h));
    const double wanted = value_of(static_cast<uint16_t>(h));
    if (std::isnan(wanted)) {
      EXPECT_TRUE(std::isnan(got)) << h;
    } else {
      EXPECT_EQ(got, wanted) << h;
      EXPECT_EQ(f32_to_f16(got), h);
    }
  }
}

TEST(Half, RoundsToTheNearestAndTiesToEven) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 200000; ++i) {
    const auto bits = static_cast<uint32_t>(random());
    const float x = std::bit_cast<float>(bits);
    if (std::isnan(x)) continue;
    const uint16_t got = f32_to_f16(x);
    if (std::fabs(x) >= 65520.0f) {
      EXPECT_EQ(got & 0x7fff, 0x7c00) << x;
      continue;
    }
    const double error = std::fabs(value_of(got) - x);
    for (const int step : {-1, 1}) {
      const auto neighbour = static_cast<uint16_t>(got + step);
      if ((neighbour & 0x7c00) == 0x7c00 || ((got & 0x7fff) == 0 && step < 0)) continue;
      const double other = std::fabs(value_of(neighbour) - x);
      EXPECT_TRUE(error < other || (error == other && (got & 1) == 0)) << x;
    }
  }
}

TEST(Half, NanStaysNan) { EXPECT_EQ(f32_to_f16(std::nanf("")) & 0x7e00, 0x7e00); }

}  // namespace
}  // namespace strata
