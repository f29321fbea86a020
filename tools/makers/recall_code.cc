#include "tools/makers/recall_code.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>
#include <random>

#include "base/check.h"

namespace strata::makers {
namespace {

constexpr uint32_t kDigitDimsMin = 4;  // twin and alias need four rows of the matrix
constexpr uint64_t kPhaseSeed = 192;   // of the first 200, the one whose 15 phases peak lowest
constexpr uint32_t kCodeBitsMax = 62;  // code numbers are 64 bit

struct Digits {
  uint32_t count = 0;  // 0 where nothing fits
  uint32_t dims = 0;
  uint32_t bits() const { return static_cast<uint32_t>(std::bit_width(2 * dims) - 1); }
};

Digits choose_digits(uint32_t n_words, uint32_t dims, uint32_t n_slices) {
  for (uint32_t count = n_slices; count * kDigitDimsMin <= dims; count += n_slices) {
    const Digits digits{count, std::bit_floor(dims / count)};
    const uint32_t bits = digits.bits() * count;
    if (bits <= kCodeBitsMax && uint64_t{1} << bits >= n_words) return digits;
  }
  return {};
}

/// Element of the Hadamard matrix; negative for odd digit values.
float digit_element(uint32_t value, uint32_t column) {
  const bool is_negative =
      (static_cast<uint32_t>(std::popcount((value >> 1) & column)) + value) % 2 != 0;
  return is_negative ? -1.0f : 1.0f;
}

}  // namespace

bool RecallCode::fits(uint32_t n_words, uint32_t dims, uint32_t n_slices) {
  return choose_digits(n_words, dims, n_slices).count > 0;
}

RecallCode::RecallCode(uint32_t n_words, uint32_t dims, uint32_t n_slices, uint64_t seed) {
  const Digits digits = choose_digits(n_words, dims, n_slices);
  STRATA_CHECK(digits.count > 0, "%u words in %u dimensions", n_words, dims);
  n_digits_ = digits.count;
  digit_dims_ = digits.dims;
  std::mt19937_64 random(seed);
  factor_ = random() | 1;
  offset_ = random();
}

std::vector<float> RecallCode::of(uint32_t word) const {
  const uint32_t bits = static_cast<uint32_t>(std::bit_width(2 * digit_dims_) - 1);
  // A four's number has two bits less than a code: those two pick a member of the four.
  const uint64_t n_fours = uint64_t{1} << (bits * n_digits_ - 2);
  uint64_t number = (word / 4 * factor_ + offset_) & (n_fours - 1);
  std::vector<float> code;
  code.reserve(dims());
  for (uint32_t digit = 0; digit < n_digits_; ++digit) {
    const uint32_t taken = digit == 0 ? bits - 2 : bits;
    auto value = static_cast<uint32_t>(number & ((uint64_t{1} << taken) - 1));
    number >>= taken;
    if (digit == 0) value = (value & 1) | (value >> 1) << 3;  // sign, two free bits, row
    value ^= word % 4 << 1;
    for (uint32_t column = 0; column < digit_dims_; ++column)
      code.push_back(digit_element(value, column));
  }
  return code;
}

std::vector<float> RecallCode::signs_of_row(uint32_t row) const {
  std::vector<float> signs(dims());
  for (uint32_t i = 0; i < signs.size(); ++i) signs[i] = digit_element(row << 1, i % digit_dims_);
  return signs;
}

std::vector<double> recall_phases(uint32_t n_pairs) {
  std::mt19937_64 random(kPhaseSeed);
  std::vector<double> phases(n_pairs);
  for (uint32_t i = 0; i < n_pairs; ++i) {
    const double within = static_cast<double>(random() >> 11) * 0x1p-53;
    phases[i] = std::numbers::pi * (i + within) / n_pairs;
  }
  return phases;
}

double phase_peak(std::span<const double> phases, uint32_t n_positions) {
  double peak = -1;
  for (uint32_t distance = 1; distance <= n_positions; ++distance) {
    double sum = 0;
    for (const double phase : phases) sum += std::cos(phase * distance);
    peak = std::max(peak, sum / static_cast<double>(phases.size()));
  }
  return peak;
}

}  // namespace strata::makers
