#include "tests/oracle/estimate.h"

#include <algorithm>
#include <numbers>

namespace strata::oracle {
namespace {

constexpr uint32_t kGroup = 32;  // values that share a scale
constexpr double kLargestCode = 127;
constexpr double kExpRoundings = 4;   // the kernels' exp errs by 2 units in the last place
constexpr double kNormRoundings = 4;  // sum, root, quotient, product
constexpr double kF16Rounding = 0x1p-11;

double square(double x) { return x * x; }

/// variance += the noise of int8 codes, for every group of 32.
void add_code_noise(Estimates& x, double relative_scale_error) {
  for (size_t begin = 0; begin < x.size(); begin += kGroup) {
    const size_t end = std::min(x.size(), begin + kGroup);
    double largest = 0;
    for (size_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(x[i].value));
    const double code_variance = square(largest / kLargestCode) / 12;
    for (size_t i = begin; i < end; ++i)
      x[i].variance += code_variance + square(relative_scale_error * x[i].value) / 3;
  }
}

/// Distance between the f16 numbers around `value`.
double f16_step(double value) {
  constexpr int kMantissaBits = 10, kLowestExponent = -14;
  const int exponent = value == 0 ? kLowestExponent : std::ilogb(value);
  return std::ldexp(1.0, std::max(exponent, kLowestExponent) - kMantissaBits);
}

}  // namespace

Estimate dot(std::span<const float> w, std::span<const Estimate> x) {
  double sum = 0, variance = 0, squares = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const auto weight = static_cast<double>(w[i]);
    const double term = weight * x[i].value;
    sum += term;
    variance += weight * weight * x[i].variance;
    squares += sum * sum + 2 * term * term;
  }
  return {sum, variance + squares * rounding_variance(1)};
}

Estimate dot(std::span<const Estimate> a, std::span<const Estimate> b) {
  double sum = 0, variance = 0, squares = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += a[i].value * b[i].value;
    variance += square(a[i].value) * b[i].variance + square(b[i].value) * a[i].variance;
    squares += sum * sum;
  }
  return {sum, variance + squares * rounding_variance(1)};
}

Estimates rms_norm(std::span<const Estimate> x, std::span<const float> w, double eps) {
  const auto n = static_cast<double>(x.size());
  double mean = 0, mean_variance = 0;
  for (const Estimate& e : x) {
    mean += e.value * e.value / n;
    mean_variance += square(2 * e.value / n) * e.variance;
  }
  mean_variance += n * rounding_variance(mean);
  const double factor = 1 / std::sqrt(mean + eps);
  const double factor_variance = square(factor * factor * factor / 2) * mean_variance +
                                 kNormRoundings * rounding_variance(factor);
  Estimates out;
  for (size_t i = 0; i < x.size(); ++i)
    out.push_back(x[i] * Estimate{factor, factor_variance} * Estimate{w[i], 0});
  return out;
}

Estimate silu(Estimate x) {
  const double sigmoid = 1 / (1 + std::exp(-x.value));
  const double slope = sigmoid * (1 + x.value * (1 - sigmoid));
  const double value = x.value * sigmoid;
  return {value, square(slope) * x.variance + kExpRoundings * rounding_variance(value)};
}

Estimate gelu_tanh(Estimate x) {
  const double root = std::sqrt(2 / std::numbers::pi);
  const double u = root * (x.value + 0.044715 * x.value * x.value * x.value);
  const double tanh_u = std::tanh(u);
  const double slope = 0.5 * (1 + tanh_u) + 0.5 * x.value * (1 - tanh_u * tanh_u) * root *
                                                (1 + 3 * 0.044715 * x.value * x.value);
  const double value = 0.5 * x.value * (1 + tanh_u);
  // exp(-2u) takes over the rounding of 2u as a relative error of that size.
  return {value, square(slope) * x.variance +
                     (kExpRoundings + 4 * square(2 * u)) * rounding_variance(value)};
}

Estimates softmax_mean(std::span<const Estimate> scores,
                       std::span<const std::span<const Estimate>> values) {
  double largest = scores[0].value;
  for (const Estimate& score : scores) largest = std::max(largest, score.value);
  std::vector<double> weights;
  double sum = 0;
  for (const Estimate& score : scores) sum += weights.emplace_back(std::exp(score.value - largest));
  Estimates out(values[0].size());
  for (size_t i = 0; i < scores.size(); ++i)
    for (size_t d = 0; d < out.size(); ++d) out[d].value += weights[i] / sum * values[i][d].value;
  // d out / d score_i = p_i (v_i - out): what scales all weights alike cancels.
  for (size_t i = 0; i < scores.size(); ++i) {
    const double p = weights[i] / sum;
    const double score_variance = scores[i].variance +
                                  rounding_variance(scores[i].value - largest) +
                                  kExpRoundings * rounding_variance(1);
    for (size_t d = 0; d < out.size(); ++d)
      out[d].variance += square(p) * (square(values[i][d].value - out[d].value) * score_variance +
                                      values[i][d].variance);
  }
  // The sums over positions: partial sums are at most the final one in size, roughly.
  const auto n = static_cast<double>(scores.size());
  for (Estimate& e : out) e.variance += n * rounding_variance(e.value);
  return out;
}

Estimates with_int8_noise(Estimates x) {
  add_code_noise(x, kF32Rounding);
  return x;
}

Estimates rounded_to_f16(Estimates x) {
  for (Estimate& e : x) {
    const double step = f16_step(e.value);
    const double exact = e.value;
    e.value = std::nearbyint(exact / step) * step;
    const double to_boundary = step / 2 - std::abs(exact - e.value);
    const bool is_certain = to_boundary > kBoundaryDeviations * std::sqrt(e.variance);
    e.variance = is_certain ? 0 : e.variance + square(step / 2);
  }
  return x;
}

Estimates with_q8_0_noise(Estimates x) {
  add_code_noise(x, kF16Rounding);
  return x;
}

}  // namespace strata::oracle
