#include "engine/rope_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <random>
#include <vector>

namespace strata::engine {
namespace {

using Real = long double;

const std::vector<uint32_t> kPositions = {0,     1,     2,      31,     511,    4096,
                                          32768, 65535, 131071, 524287, 999999, 1048576};

/// The angle of pair i at a position, from the papers' formulas in long double.
Real angle(const RopeSpec& spec, uint32_t i, uint32_t position) {
  const Real base = spec.freq_base;
  Real frequency = std::pow(base, -2.0L * i / spec.n_rot);
  if (!spec.factors.empty()) frequency /= spec.factors[i];
  const Real extrapolated = position * frequency;
  if (spec.scaling == RopeScaling::kLinear) return extrapolated / static_cast<Real>(spec.factor);
  if (spec.scaling != RopeScaling::kYarn) return extrapolated;
  const auto pair_of = [&](Real beta) {
    return spec.n_rot * std::log(spec.n_ctx_original / (2 * std::numbers::pi_v<Real> * beta)) /
           (2 * std::log(base));
  };
  const Real low = std::max(0.0L, std::floor(pair_of(spec.yarn_beta_fast)));
  const Real high = std::min<Real>(spec.n_rot - 1, std::ceil(pair_of(spec.yarn_beta_slow)));
  const Real ramp = std::clamp((i - low) / std::max(0.001L, high - low), 0.0L, 1.0L);
  const Real kept = (1 - ramp) * static_cast<Real>(spec.yarn_ext_factor);
  return extrapolated / static_cast<Real>(spec.factor) * (1 - kept) + extrapolated * kept;
}

Real magnitude(const RopeSpec& spec) {
  Real out = spec.yarn_attn_factor;
  if (spec.scaling == RopeScaling::kYarn && spec.yarn_ext_factor != 0 && spec.factor > 1)
    out *= 1 + 0.1L * std::log(static_cast<Real>(spec.factor));
  return out;
}

/// Every cosine and sine against long double. An angle is the unscaled one times parts, about eight
/// roundings to double in all (the power's exponent among them, whose rounding the power multiplies
/// by ln base), and the result is rounded to f32 once. With theta the larger of the scaled and the
/// unscaled angle, since YaRN's parts are rounded relative to 1:
///   |error| <= magnitude * (theta * (8 + ln base) * 2^-53 + 2^-24 + 2^-50)
void expect_exact(const RopeSpec& spec) {
  const RopeTable table(spec);
  ASSERT_EQ(table.n_rot(), spec.n_rot);
  std::vector<float> found(kPositions.size() * spec.n_rot);
  table.angles(kPositions, found);
  const Real size = magnitude(spec);
  RopeSpec unscaled = spec;
  unscaled.scaling = RopeScaling::kNone;
  EXPECT_NEAR(table.magnitude(), static_cast<double>(size), static_cast<double>(size) * 0x1p-50);
  for (size_t p = 0; p < kPositions.size(); ++p)
    for (uint32_t i = 0; i < spec.n_rot / 2; ++i) {
      const Real theta = angle(spec, i, kPositions[p]);
      const Real largest = std::max(theta, angle(unscaled, i, kPositions[p]));
      const Real tolerance =
          size * (largest * (8 + std::log(static_cast<Real>(spec.freq_base))) * 0x1p-53L +
                  0x1p-24L + 0x1p-50L);
      const size_t at = p * spec.n_rot + 2 * i;
      ASSERT_NEAR(found[at], static_cast<double>(size * std::cos(theta)),
                  static_cast<double>(tolerance))
          << "pair " << i << " position " << kPositions[p];
      ASSERT_NEAR(found[at + 1], static_cast<double>(size * std::sin(theta)),
                  static_cast<double>(tolerance))
          << "pair " << i << " position " << kPositions[p];
    }
}

RopeSpec table_spec(uint32_t n_rot, double base, RopeScaling scaling = RopeScaling::kNone,
                    double factor = 1, uint32_t n_ctx_original = 8192) {
  RopeSpec spec;
  spec.n_rot = n_rot;
  spec.freq_base = base;
  spec.scaling = scaling;
  spec.factor = factor;
  spec.n_ctx_original = n_ctx_original;
  return spec;
}

TEST(RopeTable, AnglesHoldToAMillionPositions) {
  for (const uint32_t n_rot : {2u, 64u, 128u, 256u, 512u})
    for (const double base : {1.1, 10000.0, 100000.0, 500000.0, 1e6, 1e12})
      expect_exact(table_spec(n_rot, base));
}

TEST(RopeTable, LinearScalingDividesPositions) {
  for (const double factor : {0.5, 2.0, 8.0, 33.3}) {
    expect_exact(table_spec(64, 10000, RopeScaling::kLinear, factor));
  }
  const std::vector<uint32_t> far = {4000}, near = {1000};
  std::vector<float> scaled(64), plain(64);
  RopeTable(table_spec(64, 10000, RopeScaling::kLinear, 4)).angles(far, scaled);
  RopeTable(table_spec(64, 10000)).angles(near, plain);
  for (size_t i = 0; i < scaled.size(); ++i) EXPECT_NEAR(scaled[i], plain[i], 0x1p-23) << i;
}

TEST(RopeTable, YarnInterpolatesByParts) {
  for (const double factor : {1.0, 2.0, 4.0, 40.0})
    for (const uint32_t n_ctx_original : {512u, 4096u, 32768u})
      for (const double base : {10000.0, 1e6})
        expect_exact(table_spec(128, base, RopeScaling::kYarn, factor, n_ctx_original));
}

TEST(RopeTable, YarnParametersShapeTheRampAndTheMagnitude) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const auto whole = [&](uint32_t n) { return 1 + static_cast<uint32_t>(random() % n); };
  const auto draw = [&](double low, double high) {
    return low + (high - low) * static_cast<double>(random()) / 4294967296.0;
  };
  for (int i = 0; i < 60; ++i) {
    RopeSpec spec = table_spec(2 * whole(128), draw(1.2, 1e6), RopeScaling::kYarn, draw(0.5, 64),
                               whole(100000));
    spec.yarn_ext_factor = draw(0, 1);
    spec.yarn_attn_factor = draw(0.1, 2);
    spec.yarn_beta_fast = draw(0.001, 100);
    spec.yarn_beta_slow = draw(0.001, 100);
    // Where a corner of the ramp falls within rounding of a whole pair, double and long double may
    // floor it to different ones; such a draw says nothing.
    const auto is_near_whole = [&](double beta) {
      const double pair = spec.n_rot *
                          std::log(spec.n_ctx_original / (2 * std::numbers::pi * beta)) /
                          (2 * std::log(spec.freq_base));
      return std::abs(pair - std::round(pair)) < 1e-9 * (1 + std::abs(pair));
    };
    if (is_near_whole(spec.yarn_beta_fast) || is_near_whole(spec.yarn_beta_slow)) continue;
    expect_exact(spec);
  }
}

TEST(RopeTable, YarnLeavesFastPairsAndInterpolatesSlowOnes) {
  const RopeSpec spec = table_spec(128, 10000, RopeScaling::kYarn, 16, 4096);
  EXPECT_EQ(angle(spec, 0, 1000), 1000.0L);  // turns every 6 positions: extrapolates
  EXPECT_NEAR(static_cast<double>(angle(spec, 63, 1000) * 16),
              static_cast<double>(angle(table_spec(128, 10000), 63, 1000)), 1e-12);
  EXPECT_DOUBLE_EQ(RopeTable(spec).magnitude(), 1 + 0.1 * std::log(16.0));
  RopeSpec without = spec;
  without.yarn_ext_factor = 0;  // plain interpolation, no temperature
  EXPECT_DOUBLE_EQ(RopeTable(without).magnitude(), 1.0);
  expect_exact(without);
}

TEST(RopeTable, FactorsDivideEachFrequency) {
  RopeSpec spec = table_spec(64, 500000);
  for (uint32_t i = 0; i < 32; ++i)  // as Llama 3.1's: 1 for fast pairs, up to 8 for slow ones
    spec.factors.push_back(i < 12 ? 1.0f
                                  : std::min(8.0f, 1.0f + 0.6f * static_cast<float>(i - 12)));
  expect_exact(spec);
  spec.scaling = RopeScaling::kLinear;  // on top of what the model was trained with
  spec.factor = 4;
  expect_exact(spec);
  spec.scaling = RopeScaling::kYarn;
  expect_exact(spec);
}

TEST(RopeTable, LongRopeIsFactorsAndAMagnitude) {
  RopeSpec spec = table_spec(96, 10000, RopeScaling::kLongRope, 1, 4096);
  spec.yarn_attn_factor = 1.19023807;  // Phi-3 mini 128k
  for (uint32_t i = 0; i < 48; ++i) spec.factors.push_back(1.05f + 1.3f * static_cast<float>(i));
  expect_exact(spec);
}

TEST(RopeTable, AnF32AngleWouldNotPassAtAMillion) {
  const RopeSpec spec = table_spec(64, 10000);
  const uint32_t position = 999999;
  const float frequency = static_cast<float>(std::pow(10000.0, -2.0 / 64));
  const double in_f32 = std::cos(static_cast<double>(static_cast<float>(position) * frequency));
  EXPECT_GT(std::abs(in_f32 - static_cast<double>(std::cos(angle(spec, 1, position)))), 1e-3);
}

TEST(RopeTableDeathTest, AWrongBufferIsABug) {
  const RopeTable table(table_spec(64, 10000));
  std::vector<float> small(63);
  const std::vector<uint32_t> positions = {0};
  EXPECT_DEATH(table.angles(positions, small), "63 floats for 1 positions");
}

}  // namespace
}  // namespace strata::engine
