// tools/makers/recall_weights.h - the tensors of a recall model. docs/recall-model.md derives the
// numbers.
//
//   residual  slots of code_room dimensions: the word | the word before [| the one before that]
//             [| the word an alias names] | what each hop found; then `one` (a constant that holds
//             the norm still) and `begin` (1 at the first token)
//   head      key_words codes | sink pair | phase pairs; rope_freqs turns the phase pairs only
//   layer 0   query heads of a group, by role: word before (phase of distance 1), the one before
//             that (distance 2), or the word an alias names (by code)
//   hop       q = code(s) of the key, k = code(s) of the words before, v = a slice of the word
//   sink      every look-up scores the first token, whose value is 0, between a word that is right
//             and one that is wrong in one digit: what was not found, or was lost, is 0
//   output    <unk> scores between a code that is whole and one that lacks a digit
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/makers/recall_code.h"
#include "tools/makers/recall_model.h"

namespace strata::makers {

struct RecallTensor {
  std::string name;
  std::vector<uint64_t> shape;
  std::vector<float> values;
};

/// Where a vocabulary's tokens are. Tokens that are neither words nor `begin` have no code.
struct RecallVocabulary {
  uint32_t size, unknown, begin, first_word, n_words;
};

class RecallWeights {
 public:
  static constexpr uint32_t kFeedForward = 32;  // all zero
  static constexpr float kNormEpsilon = 1e-5f;
  static constexpr float kRopeBase = 10000.0f;

  /// Query heads that layer 0 needs per KV head.
  static uint32_t n_roles(const RecallOptions& options);
  /// Dimensions a head has for one code: half of it holds the codes of a key.
  static uint32_t code_room(const RecallOptions& options);

  RecallWeights(const RecallOptions& options, const RecallCode& code);

  uint32_t d_model() const { return d_model_; }
  std::vector<double> phases() const;
  std::vector<RecallTensor> tensors(const RecallVocabulary& vocabulary) const;

 private:
  /// A matrix [n_out][n_in] with entries placed one by one.
  struct Matrix {
    uint32_t n_in;
    std::vector<float> values;
    float& at(uint32_t out, uint32_t in) { return values[uint64_t{out} * n_in + in]; }
  };
  Matrix matrix(uint32_t n_out, uint32_t n_in) const;

  uint32_t slot(uint32_t idx) const { return idx * room_; }
  uint32_t word_slot() const { return slot(0); }
  uint32_t before_slot(uint32_t distance) const { return slot(distance); }
  uint32_t alias_slot() const { return slot(1 + options_.key_words); }
  uint32_t hop_slot(uint32_t hop) const {
    return slot(1 + options_.key_words + (options_.asks_by_alias ? 1 : 0) + hop);
  }
  uint32_t sink_dim() const { return options_.key_words * room_; }
  uint32_t phase_dim() const { return sink_dim() + 2; }
  uint32_t n_pairs() const { return (options_.head_dim - phase_dim()) / 2; }

  double norm_of_layer(uint32_t layer) const;
  std::vector<float> rope_factors() const;
  Matrix embedding(const RecallVocabulary& vocabulary) const;
  Matrix output(const RecallVocabulary& vocabulary) const;
  Matrix noting_queries() const;
  Matrix noting_keys() const;
  Matrix hop_queries(uint32_t hop) const;
  Matrix hop_keys() const;
  Matrix values() const;
  Matrix noting_output() const;
  Matrix hop_output(uint32_t hop) const;
  void put_phase_query(Matrix& q, uint32_t head, uint32_t distance) const;
  void put_code_query(Matrix& q, uint32_t head, uint32_t head_offset, uint32_t from,
                      const std::vector<float>& signs) const;
  void put_sink_query(Matrix& q, uint32_t head) const;
  void put_slice(Matrix& o, uint32_t head, uint32_t to, double weight) const;

  RecallOptions options_;
  RecallCode code_;
  uint32_t room_;  // dimensions of a slot
  uint32_t d_model_;
  uint32_t one_dim_, begin_dim_;
  double one_;  // what one_dim holds
  double gap_;  // between a whole match and the nearest wrong one, as a share of a whole match
  double sharpness_;  // score of a whole match, before softmax
};

}  // namespace strata::makers
