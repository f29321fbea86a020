// engine/template/lexer.h - template source to tokens, with white space around tags already
// settled. Rules: trim_blocks (the line break after a block or comment goes) and lstrip_blocks
// (blanks before one that begins its line go) are on, as for every published chat template; `-`
// takes all white space on its side, `+` switches the two rules off. One line break at the very end
// of the source is dropped; CR LF and CR count as LF.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace strata::engine::jinja {

enum class TokenKind : uint8_t {
  kText,        // outside of tags
  kPrintBegin,  // {{
  kPrintEnd,    // }}
  kBlockBegin,  // {%
  kBlockEnd,    // %}
  kName,
  kString,   // text holds the decoded value
  kInteger,  // integer
  kReal,     // real
  kSymbol,   // an operator or punctuation
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  uint32_t line = 1;
  uint32_t column = 1;  // in bytes, from 1
  std::string text;
  int64_t integer = 0;
  double real = 0;

  bool is(TokenKind wanted, std::string_view wanted_text) const {
    return kind == wanted && text == wanted_text;
  }
  bool is_symbol(std::string_view symbol) const { return is(TokenKind::kSymbol, symbol); }
  bool is_name(std::string_view name) const { return is(TokenKind::kName, name); }
};

/// Ends with a kEnd token. Errors: kTemplate (line, column, what was expected).
std::vector<Token> tokenize(std::string_view source);

/// Throws Error(kTemplate) that names the place in the source.
[[noreturn]] void fail_at(uint32_t line, uint32_t column, const std::string& message);

}  // namespace strata::engine::jinja
