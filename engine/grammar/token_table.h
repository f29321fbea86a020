// engine/grammar/token_table.h - a vocabulary in the order of its tokens' bytes, so that all tokens
// are tried against a grammar with each common beginning walked once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/text/tokenizer.h"

namespace strata::engine {

/// Immutable and shareable between threads. Built once per model; about 20 bytes per token and
/// their texts.
class TokenTable {
 public:
  /// `vocab_size` of the model's logits, which may be more than the tokenizer's.
  TokenTable(const Tokenizer& tokenizer, uint32_t vocab_size);
  /// `texts` [vocab_size]; a token without a text is never part of one.
  TokenTable(const std::vector<std::string>& texts, std::vector<TokenId> end_tokens);

  struct Entry {
    TokenId token = 0;
    uint32_t begin = 0, n_bytes = 0;  // in bytes()
    uint32_t n_common = 0;            // bytes that it begins with as the entry before it does
    uint32_t group_end = 0;           // the first entry that begins with another byte
  };
  const std::vector<Entry>& entries() const { return entries_; }  // sorted by their bytes
  const std::string& bytes() const { return bytes_; }
  const std::vector<TokenId>& end_tokens() const { return end_tokens_; }
  uint32_t vocab_size() const { return vocab_size_; }
  uint32_t longest_bytes() const { return longest_bytes_; }
  std::string_view text_of(TokenId token) const;
  bool is_end(TokenId token) const;

 private:
  uint32_t vocab_size_, longest_bytes_ = 0;
  std::vector<Entry> entries_;
  std::vector<uint32_t> entry_of_;  // [vocab_size], UINT32_MAX = none
  std::string bytes_;
  std::vector<TokenId> end_tokens_;
};

}  // namespace strata::engine
