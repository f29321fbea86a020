// tools/makers/recall_model.h - a model whose weights are built, not trained: after
// "... K V1 V2 V3 ... K" its greedy answer is V1 V2 V3, wherever K stood.
// Why: a lost or damaged KV block is a wrong answer, at any length, on a model of a megabyte.
// Source: induction heads (arXiv 2209.11895); how the weights are built: docs/recall-model.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/gguf/gguf_file.h"
#include "tools/makers/recall_code.h"

namespace strata::makers {

/// The square of the residual's constant part, as a multiple of a code's.
inline constexpr double kOneShare = 1024;

struct RecallOptions {
  uint32_t vocab_size = 1024;  // tokens: 261 of the vocabulary's own, the others are words
  uint32_t n_layers = 2;       // layer 0 notes each word's predecessor, every other looks up a hop
  uint32_t n_kv_heads = 2;     // each carries a slice of every code
  uint32_t group = 1;
  uint32_t head_dim = 64;
  uint32_t key_words = 1;  // words that name a place: 1, or 2 (two layers, a group of 2 or more)
  bool asks_by_alias = false;  // questions and answers are aliases of the text's words, which layer
                               // 0 must find in the text first (a group of 2 or more)
  uint64_t seed = 1;           // which code a word has
};

/// The variants the tests and docs/recall-model.md name.
RecallOptions recall_variant();     // one hop, every head a slice of the value
RecallOptions key_value_variant();  // two words name a value: each alone is in many keys
RecallOptions multi_hop_variant();  // alias -> word -> twin of the next word -> value, a layer each

/// What a file was made with, but for the seed of its codes, which no text depends on; nothing
/// where it is no recall model.
std::optional<RecallOptions> read_recall_options(const engine::GgufFile& file);

class RecallModel {
 public:
  /// Errors: kUsage (a size that is out of range or cannot hold the words: says which would).
  static RecallModel make(const RecallOptions& options);

  const RecallOptions& options() const { return options_; }
  const RecallCode& code() const { return code_; }
  uint32_t n_hops() const { return options_.n_layers - 1; }
  uint32_t n_words() const { return n_words_; }  // "w0" ..
  int32_t token(uint32_t word) const;            // token id of a word
  /// "w3 w17 ...": the tokenizer gives the words' tokens back.
  std::string text(const std::vector<uint32_t>& words) const;
  /// The word a token is, or n_words() where it is none (`<unk>`: "I have not read that").
  uint32_t word(int32_t token) const;

  /// The logit of a code that was found whole; `<unk>` has less by kLogitMargin, a code that lacks
  /// a digit by twice that.
  double answer_logit() const { return kLogitMargin * 2 * code_.n_digits(); }
  static constexpr double kLogitMargin = 16;

  /// The phases after rounding to the file's f32 factors, one per rotated pair.
  std::vector<double> phases() const;

  /// Errors: kIo.
  void write(const std::string& path) const;

 private:
  RecallModel(const RecallOptions& options, uint32_t n_words, const RecallCode& code);
  RecallOptions options_;
  uint32_t n_words_ = 0;
  RecallCode code_;
};

}  // namespace strata::makers
