// tools/makers/recall_code.h - the codes of a recall model's words, and the RoPE phases by which it
// finds the word before. Why: every margin of the model is a property of these, and a test can
// measure them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace strata::makers {

/// A word is n_digits digits; a digit is one of 2 * digit_dims vectors of +-1, a row of the
/// Hadamard matrix or its negative. Two digits that differ have a product of 0 or -digit_dims, so
/// two words that differ have a product of at most (1 - 1 / n_digits) of a word's with itself.
///
/// Words come in fours, 4k .. 4k + 3, whose digits differ by exclusive or: what maps each word to
/// its twin (idx ^ 1) or its alias (idx ^ 2) is then one diagonal matrix of signs, the same for all
/// words.
class RecallCode {
 public:
  /// As few digits as n_words need, a multiple of n_slices. False where `dims` cannot hold them.
  static bool fits(uint32_t n_words, uint32_t dims, uint32_t n_slices);
  RecallCode(uint32_t n_words, uint32_t dims, uint32_t n_slices, uint64_t seed);

  static uint32_t twin(uint32_t word) { return word ^ 1u; }
  static uint32_t alias(uint32_t word) { return word ^ 2u; }

  uint32_t n_digits() const { return n_digits_; }
  /// Dimensions a code fills, at most the `dims` given.
  uint32_t dims() const { return n_digits_ * digit_dims_; }
  std::vector<float> of(uint32_t word) const;  // [dims()] of +-1
  /// The signs that turn a code into its twin's or its alias's.
  std::vector<float> twin_signs() const { return signs_of_row(1); }
  std::vector<float> alias_signs() const { return signs_of_row(2); }

 private:
  std::vector<float> signs_of_row(uint32_t row) const;
  uint32_t n_digits_ = 0;
  uint32_t digit_dims_ = 0;
  uint64_t factor_ = 0, offset_ = 0;  // fours are dealt their codes by class * factor + offset
};

/// Angles per position, drawn once and for all: in (0, pi), irregular, so that no distance but 0
/// brings all of them into phase.
std::vector<double> recall_phases(uint32_t n_pairs);

/// What phase_peak() of 15 or more phases stays below over kRecallContext positions
/// (tests/engine/recall_test.cc).
inline constexpr double kPhasePeakMax = 0.8;
inline constexpr uint32_t kRecallContext = 1u << 20;

/// The largest mean cosine of the phases over the distances 1 .. n_positions.
double phase_peak(std::span<const double> phases, uint32_t n_positions);

}  // namespace strata::makers
