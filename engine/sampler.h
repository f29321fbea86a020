// engine/sampler.h - picks the next token from logits: bias, penalties, top-k, top-p, min-p,
// temperature, in llama.cpp's order.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/text/tokenizer.h"

namespace strata::engine {

struct SamplerOptions {
  double temperature = 0.8;     // <= 0: greedy
  uint32_t top_k = 40;          // 0 = off
  double top_p = 0.95;          // 1 = off
  double min_p = 0.05;          // 0 = off
  double repeat_penalty = 1.0;  // 1 = off
  uint32_t repeat_last_n = 64;  // tokens the penalties look back over
  double presence_penalty = 0;
  double frequency_penalty = 0;
  uint64_t seed = 0;
  std::vector<std::pair<TokenId, double>> logit_bias;
};

/// Deterministic: the same options, history and logits give the same token. All memory is allocated
/// by the constructor (12 bytes per token of the vocabulary), none per token.
class Sampler {
 public:
  /// Errors: kUsage (a value out of range, a bias on a token that does not exist).
  Sampler(const SamplerOptions& options, uint32_t vocab_size);
  /// Remembers a token of the prompt or of the answer for the penalties.
  void accept(TokenId token);
  /// Picks from logits [vocab_size]; does not accept it. Equal logits: the lower id wins. NaN
  /// counts as impossible, like -inf; +inf leaves no chance to what is finite. Of `allowed`, token
  /// t is bit t % 64 of word t / 64; none given = every token is. Errors: kBadFile (no logit is
  /// possible: the model's numbers are damaged), kUsage (the biases, or what is not allowed, forbid
  /// all that were).
  TokenId pick(std::span<const float> logits, std::span<const uint64_t> allowed = {});

 private:
  void adjust(std::span<const float> logits, std::span<const uint64_t> allowed);
  [[noreturn]] void refuse_impossible(std::span<const float> logits,
                                      std::span<const uint64_t> allowed) const;
  void keep_top_k();
  void keep_top_p();
  void keep_min_p();
  TokenId draw();
  double next_uniform();

  SamplerOptions options_;
  uint32_t vocab_size_;
  bool has_penalties_;
  std::vector<TokenId> history_;        // ring of the last repeat_last_n; empty without penalties
  std::vector<uint32_t> n_in_history_;  // [vocab_size] how often each token stands in the ring
  uint64_t n_accepted_ = 0;
  uint64_t state_;  // of the generator
  std::vector<std::pair<float, TokenId>> candidates_;
};

}  // namespace strata::engine
