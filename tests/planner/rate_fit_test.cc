#include "planner/rate_fit.h"

#include <gtest/gtest.h>

#include <vector>

namespace strata::planner {
namespace {

TimeSample on_line(double bytes, double alpha_us, double bytes_per_s) {
  return {bytes, alpha_us * 1e-6 + bytes / bytes_per_s};
}

TEST(RateFit, FindsTheLineThatSamplesLieOn) {
  std::vector<TimeSample> samples;
  for (double bytes = 4096; bytes <= 1 << 24; bytes *= 2)
    samples.push_back(on_line(bytes, 80, 2.5e9));
  const RateCurve curve = fit_rate(samples);
  EXPECT_NEAR(curve.alpha_us, 80, 1e-6);
  EXPECT_NEAR(curve.bytes_per_s, 2.5e9, 10);
}

TEST(RateFit, AShortTimeCountsAsMuchAsALongOne) {
  // The long one is 10 % off; alpha stays that of the short ones.
  const std::vector<TimeSample> samples = {
      on_line(4096, 100, 1e9), on_line(8192, 100, 1e9), {1e9, 1.1}};
  EXPECT_NEAR(fit_rate(samples).alpha_us, 100, 1);
}

TEST(RateFit, AlphaIsNeverNegative) {
  const std::vector<TimeSample> samples = {{1000, 1e-6}, {2000, 4e-6}};
  const RateCurve curve = fit_rate(samples);
  EXPECT_EQ(curve.alpha_us, 0);
  EXPECT_GT(curve.bytes_per_s, 0.5e9);
  EXPECT_LT(curve.bytes_per_s, 1e9);
}

TEST(RateFit, TimesThatDoNotGrowGiveNoNegativeRate) {
  const std::vector<TimeSample> samples = {{1000, 4e-6}, {2000, 1e-6}};
  EXPECT_EQ(fit_rate(samples).alpha_us, 0);
  EXPECT_GT(fit_rate(samples).bytes_per_s, 0);
}

TEST(RateFit, OneSampleIsARateAndNoneIsNothing) {
  const std::vector<TimeSample> one = {{1000, 1e-6}};
  EXPECT_EQ(fit_rate(one).alpha_us, 0);
  EXPECT_NEAR(fit_rate(one).bytes_per_s, 1e9, 1);
  EXPECT_EQ(fit_rate({}).bytes_per_s, 0);
}

}  // namespace
}  // namespace strata::planner
