// tests/engine/letter_requests.h - what tests of answers ask of the letter models of tiny_engine.h.
#pragma once

#include <random>
#include <span>
#include <string>
#include <vector>

#include "engine/generator.h"
#include "tests/engine/tiny_engine.h"

namespace strata::engine::testing {

using Tokens = std::vector<TokenId>;

inline Tokens letters(const std::string& text) {
  Tokens tokens;
  for (const char c : text) tokens.push_back(letter(c));
  return tokens;
}

/// Letters whose sequence depends on all that stood before. They may say the end at any place, so
/// requests ignore it.
inline SmallModel drawn_model(const std::string& architecture = "llama", uint32_t n_layers = 2) {
  SmallModel model = make_small_model({.architecture = architecture,
                                       .n_layers = n_layers,
                                       .vocab_size = kLetterVocabulary,
                                       .n_ctx_train = 256});
  draw_weights(model, 7);
  set_letters(model);
  return model;
}

inline uint32_t below(std::mt19937& random, uint32_t n) {
  return static_cast<uint32_t>(random() % n);
}

inline char drawn_letter(std::mt19937& random) {
  return static_cast<char>('a' + below(random, 26));
}

inline Tokens drawn_tokens(std::mt19937& random, uint64_t n) {
  Tokens tokens;
  for (uint64_t i = 0; i < n; ++i) tokens.push_back(letter(drawn_letter(random)));
  return tokens;
}

inline Tokens joined(const Tokens& a, const Tokens& b) {
  Tokens tokens = a;
  tokens.insert(tokens.end(), b.begin(), b.end());
  return tokens;
}

inline GenerationRequest request_of(std::span<const TokenId> prompt, uint64_t n_ctx = 64) {
  GenerationRequest request;
  request.prompt = prompt;
  request.vocab_size = kLetterVocabulary;
  request.n_ctx = n_ctx;
  request.n_ctx_train = n_ctx;
  request.chunk_rows = 16;
  request.sampler.temperature = 0;
  return request;
}

inline GenerationRequest endless_request(std::span<const TokenId> prompt, uint64_t n_predict,
                                         uint64_t n_ctx = 64) {
  GenerationRequest request = request_of(prompt, n_ctx);
  request.ignore_eos = true;
  request.n_predict = n_predict;
  return request;
}

}  // namespace strata::engine::testing
