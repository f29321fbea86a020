// tests/oracle/estimate.h - numbers in double that carry how far an engine in f32 may be from them.
//
// Why: the tolerance of a whole forward pass cannot be one number. A worst-case bound grows by the
// norm of every matrix and soon allows anything; a constant is a guess. Each number here carries
// the variance of the engine's error, to first order and taking roundings as independent:
//
//   f(x1, x2, ...)   variance = sum (df/dxi)^2 variance_i + n_roundings * rounding_variance(f)
//   a rounding       uniform within +-2^-24 |f|: rounding_variance(f) = (2^-24 f)^2 / 3
//
// and a value of the engine is accepted within kDeviations deviations. Source: Higham, Accuracy and
// Stability of Numerical Algorithms, section 2.8 (probabilistic error analysis). Errors are not
// quite independent: a norm's factor is common to a row, an angle's cosine to all heads.
// kDeviations covers this; zoo_test prints the largest number of deviations that it met.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace strata::oracle {

inline constexpr double kF32Rounding = 0x1p-24;
inline constexpr double kDeviations = 10;
/// The root mean square over many values would be 1; small systematic mistakes show in it first.
inline constexpr double kDeviationsOverall = 1.5;

constexpr double rounding_variance(double value) {
  return (kF32Rounding * value) * (kF32Rounding * value) / 3;
}

struct Estimate {
  double value = 0;
  double variance = 0;

  double tolerance() const { return kDeviations * std::sqrt(variance); }
};

using Estimates = std::vector<Estimate>;

/// An exact number after n roundings to f32.
inline Estimate rounded(double value, double n_roundings = 1) {
  return {value, n_roundings * rounding_variance(value)};
}

inline Estimate operator+(Estimate a, Estimate b) {
  const double value = a.value + b.value;
  return {value, a.variance + b.variance + rounding_variance(value)};
}

inline Estimate operator-(Estimate a, Estimate b) { return a + Estimate{-b.value, b.variance}; }

inline Estimate operator*(Estimate a, Estimate b) {
  const double value = a.value * b.value;
  return {value, b.value * b.value * a.variance + a.value * a.value * b.variance +
                     rounding_variance(value)};
}

/// sum w[i] x[i] in order, w exact. A partial sum is rounded at every term; a product may be
/// rounded on its own, or a scale shared by a group of terms.
Estimate dot(std::span<const float> w, std::span<const Estimate> x);
Estimate dot(std::span<const Estimate> a, std::span<const Estimate> b);

/// x[i] w[i] / sqrt(mean(x^2) + eps).
Estimates rms_norm(std::span<const Estimate> x, std::span<const float> w, double eps);

/// x / (1 + exp(-x)).
Estimate silu(Estimate x);
/// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
Estimate gelu_tanh(Estimate x);

/// sum softmax(scores)[i] values[i][d] for every d. exp errs by `exp_roundings` roundings.
Estimates softmax_mean(std::span<const Estimate> scores,
                       std::span<const std::span<const Estimate>> values);

/// What a quantised matrix does to its input: int8 codes of scale max|x| / 127 for every 32 values,
/// so an error uniform within half a scale: variance scale^2 / 12.
Estimates with_int8_noise(Estimates x);

/// Rounded to f16, to nearest even. The engine rounds its own value: to the same number, so without
/// any error, unless a boundary between two f16 numbers lies within kBoundaryDeviations of the
/// value. There the results may be a step apart: such a rare jump is given the variance of a coin
/// toss, (step / 2)^2, and not that of its small chance, which no number of deviations would cover.
inline constexpr double kBoundaryDeviations = 6;
Estimates rounded_to_f16(Estimates x);

/// q8_0 of base/kv_layout.h, groups of 32: codes of scale max|x| / 127 (variance scale^2 / 12) and
/// the scale rounded to f16 (a relative error uniform within +-2^-11).
Estimates with_q8_0_noise(Estimates x);

}  // namespace strata::oracle
