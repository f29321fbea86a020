// tests/engine/small_vocabulary.h - tokenizers of a few hundred tokens made in a test, and random
// texts of many scripts. Header only: the fuzz target uses it as well.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "engine/text/byte_alphabet.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"

namespace strata::engine::testing {

inline constexpr std::string_view kMark = "\xE2\x96\x81";  // U+2581, a space inside SPM pieces

inline TokenId add_token(TokenizerSpec& spec, std::string text, TokenKind kind, float score = 0) {
  spec.tokens.push_back(std::move(text));
  spec.kinds.push_back(kind);
  if (spec.model == "llama") spec.scores.push_back(score);
  return static_cast<TokenId>(spec.tokens.size() - 1);
}

/// The characters that stand for bytes.
inline std::string in_alphabet(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) append_utf8(alphabet_code_point(static_cast<uint8_t>(c)), text);
  return text;
}

using ScoredPieces = std::vector<std::pair<std::string, float>>;

/// Ids: 0 <unk>, 1 <s>, 2 </s>; 3 + byte where `with_bytes`; then the pieces. No BOS is added.
inline TokenizerSpec make_spm_spec(const ScoredPieces& pieces, bool with_bytes = true) {
  TokenizerSpec spec;
  spec.model = "llama";
  spec.pre = "default";
  spec.unk = add_token(spec, "<unk>", TokenKind::kUnknown);
  spec.bos = add_token(spec, "<s>", TokenKind::kControl);
  spec.eos = add_token(spec, "</s>", TokenKind::kControl);
  for (int byte = 0; byte < 256 && with_bytes; ++byte)
    add_token(spec, fmt::format("<0x{:02X}>", byte), TokenKind::kByte);
  for (const auto& [text, score] : pieces) add_token(spec, text, TokenKind::kNormal, score);
  return spec;
}

inline TokenId spm_byte(uint8_t byte) { return 3 + byte; }

/// Ids: the byte itself; 256 + i is what merge i makes, where no earlier token has its text. Merges
/// are pairs of byte strings.
inline TokenizerSpec make_bpe_spec(const std::vector<std::pair<std::string, std::string>>& merges,
                                   const std::string& pre = "gpt-2") {
  TokenizerSpec spec;
  spec.model = "gpt2";
  spec.pre = pre;
  spec.add_space_prefix = false;
  for (int byte = 0; byte < 256; ++byte)
    add_token(spec, in_alphabet(std::string(1, static_cast<char>(byte))), TokenKind::kNormal);
  for (const auto& [left, right] : merges) {
    spec.merges.push_back(in_alphabet(left) + " " + in_alphabet(right));
    const std::string whole = in_alphabet(left + right);
    bool is_known = false;
    for (const std::string& token : spec.tokens) is_known = is_known || token == whole;
    if (!is_known) add_token(spec, whole, TokenKind::kNormal);
  }
  return spec;
}

/// What a decoder shows: whole characters, and U+FFFD for each maximal subpart of what is none.
inline std::string with_replacements(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    out += step.status == Utf8Status::kWhole ? text.substr(0, step.bytes) : kReplacementCharacter;
    text.remove_prefix(step.bytes);
  }
  return out;
}

/// Ids without BOS and EOS.
inline std::vector<TokenId> encode_plainly(const Tokenizer& tokenizer, std::string_view text,
                                           bool parse_special = false) {
  return tokenizer.encode(text, {.add_special = false, .parse_special = parse_special});
}

/// Draws texts whose neighbours often belong together: a script, a run of one character, a word, a
/// contraction, white space of every kind.
class TextSource {
 public:
  explicit TextSource(uint32_t seed) : random_(seed) {}

  std::mt19937& random() { return random_; }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }

  std::string text(size_t n_code_points) {
    std::string out;
    for (size_t n = 0; n < n_code_points;) {
      const size_t run = 1 + below(6);
      const uint32_t kind = below(12);
      if (kind == 0) {
        out += kWords[below(std::size(kWords))];
      } else {
        const Range range = kind < 5 ? kRanges[below(3)] : kRanges[below(std::size(kRanges))];
        uint32_t code_point = draw(range);
        for (size_t i = 0; i < run; ++i) {
          append_utf8(code_point, out);
          if (kind % 2 != 0) code_point = draw(range);
        }
      }
      n += run;
    }
    return out;
  }

 private:
  struct Range {
    uint32_t first, last;
  };
  static constexpr Range kRanges[] = {
      {0x20, 0x7E},       {'a', 'f'},         {'0', '9'},       {0x09, 0x0D},
      {0x20, 0x20},       {0x0A, 0x0A},       {0x80, 0xA0},     {0xA1, 0x24F},
      {0x300, 0x36F},     {0x370, 0x52F},     {0x590, 0x6FF},   {0x900, 0xDFF},
      {0x2000, 0x206F},   {0x20A0, 0x2BFF},   {0x3000, 0x30FF}, {0x4E00, 0x9FFF},
      {0xAC00, 0xD7A3},   {0xFE00, 0xFE0F},   {0xFF00, 0xFFEF}, {0x10000, 0x104FF},
      {0x1F300, 0x1F6FF}, {0x1F3FB, 0x1F3FF}, {0xE000, 0xE010}, {0x10FFF0, 0x10FFFF}};
  static constexpr const char* kWords[] = {
      "'s",
      "'LL",
      "'re",
      " the",
      "Hello",
      "\r\n",
      "  ",
      "e\xCC\x81",
      "\xC2\xA0",
      "\xC2\x85",
      "\xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA9",  // two people joined by U+200D
      "\xE2\x96\x81"};

  uint32_t draw(Range range) { return range.first + below(range.last - range.first + 1); }

  std::mt19937 random_;
};

}  // namespace strata::engine::testing
