// tiers/text_match.h - tokens that are found by the bytes they stand for.
// Why: an answer that comes back as text may be tokenised in another way than it was generated. Its
// bytes are the same, so what was saved of it can be found, and its tokens taken as they are.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace strata::tiers {

/// Appends the bytes that a token stands for. Two tokens may have the same; which bytes mark a
/// token that no text may become is the caller's choice.
using TokenBytes = std::function<void(int32_t token, std::string& out)>;

/// The tokens of a text's beginning.
struct KnownText {
  std::vector<int32_t> tokens;
  std::vector<uint8_t> is_generated;  // as tokens: 1 = by a model, 0 = by a tokenizer
  uint64_t n_bytes = 0;               // of the text
};

/// Follows runs of tokens along one text and keeps the beginning that ends the latest with a
/// generated token, and not inside a UTF-8 character. Costs the bytes that agree.
class TextMatch {
 public:
  /// Both are borrowed.
  TextMatch(std::string_view text, const TokenBytes& bytes_of) : text_(text), bytes_of_(bytes_of) {}

  /// Follows `tokens` from position `pos` on, behind what was followed before it: those of the
  /// positions before `pos` must agree. Returns the position where they end or disagree.
  uint32_t follow(uint32_t pos, std::span<const int32_t> tokens,
                  std::span<const uint8_t> is_generated);
  KnownText take_best() { return std::move(best_); }

 private:
  bool is_between_characters(uint64_t at) const;
  std::string_view text_;
  const TokenBytes& bytes_of_;
  std::vector<int32_t> tokens_;        // that agree, of the last run that was followed
  std::vector<uint8_t> is_generated_;  // as tokens_
  std::vector<uint64_t> ends_;         // in the text, after each of tokens_
  KnownText best_;
};

}  // namespace strata::tiers
