// tests/gpu_attn/row_oracle.h - what the cases of several subjects say of rows: random ones, and
// whether an int8 form is that of its row.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "base/kernel_table.h"
#include "tests/gpu_attn/under_test.h"

namespace strata::gpu_test {

std::vector<GpuCase> rotate_cases();  // joined to row_cases()

// One rounding of f32, relative, and what roundings of roundings add.
inline constexpr double kUnit = 0x1.002p-24;

inline std::vector<float> normal_row(uint64_t n, std::mt19937& random, float size = 1.0f) {
  std::normal_distribution<float> normal(0.0f, size);
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

/// The int8 form of n values on the device.
inline QuantRows make_quant(UnderTest& on, uint64_t n) {
  return {on.make<int8_t>(n), on.make<float>(n / kActGroup), on.make<int32_t>(n / kActHalfGroup)};
}

/// Judges the int8 form of x, the f32 values that the device gave beside it. One division gives the
/// scale: 2^-23 at most, relative. A code is the nearest to x 127 / max, which takes two roundings
/// of values up to 127: a tie moves by 127 (2^-24 + 2^-24) at most. Sums are those of the codes. A
/// group with a NaN has a NaN for its scale.
inline void expect_quant(UnderTest& on, CaseReport& report, const QuantRows& quant,
                         const std::vector<float>& x, const std::string& what) {
  const auto codes = on.download(quant.q, x.size());
  const auto scales = on.download(quant.scales, x.size() / kActGroup);
  const auto neg_sums = on.download(quant.neg_sums, x.size() / kActHalfGroup);
  std::vector<double> wanted_scales(scales.size());
  uint64_t n_wrong_codes = 0, n_wrong_sums = 0;
  for (uint64_t g = 0; g < scales.size(); ++g) {
    double largest = 0;
    bool has_nan = false;
    for (uint64_t i = g * kActGroup; i < (g + 1) * kActGroup; ++i) {
      has_nan = has_nan || std::isnan(x[i]);
      largest = std::fmax(largest, std::abs(double{x[i]}));
    }
    const bool is_zero = largest < 0x1p-120;
    wanted_scales[g] = has_nan ? std::nan("") : is_zero ? 0 : largest / 127;
    for (uint64_t i = g * kActGroup; i < (g + 1) * kActGroup && !has_nan; ++i) {
      const double exact = is_zero ? 0 : x[i] * (127 / largest);
      if (!(std::abs(exact - codes[i]) <= 0.5 + 254 * kUnit)) ++n_wrong_codes;
    }
  }
  for (uint64_t h = 0; h < neg_sums.size(); ++h) {
    int32_t sum = 0;
    for (uint64_t i = h * kActHalfGroup; i < (h + 1) * kActHalfGroup; ++i) sum += codes[i];
    if (neg_sums[h] != -sum) ++n_wrong_sums;
  }
  report.expect_near(
      scales, wanted_scales, [&](uint64_t g) { return 2 * kUnit * wanted_scales[g]; },
      what + ", scales");
  report.expect(n_wrong_codes == 0, what + ": " + std::to_string(n_wrong_codes) + " codes");
  report.expect(n_wrong_sums == 0, what + ": " + std::to_string(n_wrong_sums) + " sums");
}

}  // namespace strata::gpu_test
