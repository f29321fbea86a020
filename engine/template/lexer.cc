#include "engine/template/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "engine/template/code_points.h"
#include "engine/template/number_text.h"
#include "engine/template/runtime.h"
#include "engine/template/string_literal.h"

namespace strata::engine::jinja {
namespace {

std::string normalised(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool is_name_start(char c) {
  const auto byte = static_cast<uint8_t>(c);
  return byte >= 0x80 || c == '_' || ((byte | 32) >= 'a' && (byte | 32) <= 'z');
}
bool is_decimal(char c) { return c >= '0' && c <= '9'; }
bool is_name_part(char c) { return is_name_start(c) || is_decimal(c); }

// Longer symbols stand before those they begin with.
constexpr std::array<std::string_view, 24> kSymbols = {"//", "==", "!=", ">=", "<=", "+", "-", "*",
                                                       "/",  "%",  "~",  "[",  "]",  "(", ")", "{",
                                                       "}",  ">",  "<",  "=",  ".",  ":", "|", ","};

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) text_then_tag();
    push(TokenKind::kEnd, at_);
    return std::move(tokens_);
  }

 private:
  bool looking_at(std::string_view text) const {
    return source_.compare(at_, text.size(), text) == 0;
  }

  // Lines and columns are counted forward from the last place asked for; only an error may lie
  // before it, and it is the last one.
  void locate(size_t at, uint32_t* line, uint32_t* column) {
    if (at < located_) located_ = line_begin_ = 0, line_ = 1;
    for (; located_ < at; ++located_) {
      if (source_[located_] == '\n') {
        ++line_;
        line_begin_ = located_ + 1;
      }
    }
    *line = line_;
    *column = static_cast<uint32_t>(at - line_begin_ + 1);
  }

  Token& push(TokenKind kind, size_t at, std::string text = "") {
    Token& token = tokens_.emplace_back();
    token.kind = kind;
    token.text = std::move(text);
    locate(at, &token.line, &token.column);
    return token;
  }

  [[noreturn]] void fail(size_t at, const std::string& message) {
    uint32_t line = 0;
    uint32_t column = 0;
    locate(at, &line, &column);
    fail_at(line, column, message);
  }

  size_t find_tag(size_t from) const {
    for (size_t at = source_.find('{', from); at != std::string::npos;
         at = source_.find('{', at + 1)) {
      if (at + 1 < source_.size() &&
          std::string_view("{%#").find(source_[at + 1]) != std::string_view::npos) {
        return at;
      }
    }
    return source_.size();
  }

  size_t skip_space(size_t at) const {
    return at + trim_bounds(std::string_view(source_).substr(at), nullptr, true, false).begin;
  }

  // Emits the text from at_ up to the tag at `tag`, less the white space that the tag takes.
  void emit_text(size_t tag) {
    size_t end = tag;
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    const std::string_view text = std::string_view(source_).substr(at_, tag - at_);
    if (tag < source_.size() && sign == '-') {
      end = at_ + trim_bounds(text, nullptr, false, true).end;
    } else if (tag < source_.size() && sign != '+' && source_[tag + 1] != '{') {
      const size_t line_break = text.rfind('\n');
      const bool begins_line = line_break != std::string_view::npos || starts_line_;
      const size_t line_begin = line_break == std::string_view::npos ? 0 : line_break + 1;
      if (begins_line && text.find_first_not_of(" \t", line_begin) == std::string_view::npos) {
        end = at_ + line_begin;
      }
    }
    if (end > at_) push(TokenKind::kText, at_, source_.substr(at_, end - at_));
  }

  void text_then_tag() {
    const size_t tag = find_tag(at_);
    emit_text(tag);
    at_ = tag;
    if (tag >= source_.size()) return;
    const char kind = source_[tag + 1];
    at_ += 2;
    if (at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+')) ++at_;
    if (kind == '#') {
      comment(tag);
    } else if (kind == '{') {
      push(TokenKind::kPrintBegin, tag);
      inside_tag("}}", TokenKind::kPrintEnd, tag);
    } else if (!raw_block(tag)) {
      push(TokenKind::kBlockBegin, tag);
      inside_tag("%}", TokenKind::kBlockEnd, tag);
    }
  }

  // Steps over the end of a tag at at_ (its sign, the two characters, the white space it takes).
  void close_tag(char sign, bool takes_line_break) {
    const size_t begin = at_;
    at_ += sign ? 3 : 2;
    if (sign == '-') {
      at_ = skip_space(at_);
    } else if (sign == '\0' && takes_line_break && at_ < source_.size() && source_[at_] == '\n') {
      ++at_;
    }
    starts_line_ = at_ > begin && source_[at_ - 1] == '\n';
  }

  void comment(size_t tag) {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail(tag, "a comment lacks its '#}'");
    const bool has_sign = end > at_ && (source_[end - 1] == '-' || source_[end - 1] == '+');
    at_ = has_sign ? end - 1 : end;
    close_tag(has_sign ? source_[end - 1] : '\0', true);
  }

  // Whether `word` and the end of a block tag stand at `at`; gives the place of that end and its
  // sign.
  bool is_word_tag(size_t at, std::string_view word, size_t* end, char* sign) const {
    at = skip_space(at);
    if (source_.compare(at, word.size(), word) != 0) return false;
    at = skip_space(at + word.size());
    *sign = at < source_.size() && (source_[at] == '-' || source_[at] == '+') ? source_[at] : '\0';
    *end = at;
    return source_.compare(at + (*sign ? 1 : 0), 2, "%}") == 0;
  }

  bool raw_block(size_t tag) {
    size_t end = 0;
    char sign = '\0';
    if (!is_word_tag(at_, "raw", &end, &sign)) return false;
    at_ = end;
    close_tag(sign, false);
    for (size_t close = source_.find("{%", at_); close != std::string::npos;
         close = source_.find("{%", close + 2)) {
      const bool has_sign =
          close + 2 < source_.size() && (source_[close + 2] == '-' || source_[close + 2] == '+');
      if (!is_word_tag(close + (has_sign ? 3 : 2), "endraw", &end, &sign)) continue;
      emit_text(close);
      at_ = end;
      close_tag(sign, true);
      return true;
    }
    fail(tag, "a raw block lacks its 'endraw'");
  }

  // Whether the tag ends here; inside brackets its characters are operators.
  bool at_tag_end(std::string_view closing, char* sign) const {
    if (!brackets_.empty()) return false;
    *sign = '\0';
    if (looking_at(closing)) return true;
    const bool may_be_plus = closing == "%}";
    *sign = source_[at_];
    return (*sign == '-' || (may_be_plus && *sign == '+')) &&
           source_.compare(at_ + 1, 2, closing) == 0;
  }

  void inside_tag(std::string_view closing, TokenKind end_kind, size_t tag) {
    brackets_.clear();
    while (true) {
      at_ = skip_space(at_);
      if (at_ >= source_.size()) fail(tag, fmt::format("a tag lacks its '{}'", closing));
      char sign = '\0';
      if (at_tag_end(closing, &sign)) {
        push(end_kind, at_);
        close_tag(sign, end_kind == TokenKind::kBlockEnd);
        return;
      }
      token();
    }
  }

  void token() {
    const char c = source_[at_];
    if (c == '\'' || c == '"') {
      string();
    } else if (is_decimal(c)) {
      number();
    } else if (is_name_start(c)) {
      const size_t begin = at_;
      while (at_ < source_.size() && is_name_part(source_[at_])) ++at_;
      push(TokenKind::kName, begin, source_.substr(begin, at_ - begin));
    } else {
      symbol();
    }
  }

  void symbol() {
    const auto* found = std::find_if(kSymbols.begin(), kSymbols.end(),
                                     [&](std::string_view s) { return looking_at(s); });
    if (found == kSymbols.end()) fail(at_, fmt::format("unexpected character '{}'", source_[at_]));
    balance(found->front());
    push(TokenKind::kSymbol, at_, std::string(*found));
    at_ += found->size();
  }

  void balance(char c) {
    if (c == '(' || c == '[' || c == '{') {
      brackets_ += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
      if (brackets_.empty()) fail(at_, fmt::format("unexpected '{}'", c));
      if (brackets_.back() != c)
        fail(at_, fmt::format("expected '{}', found '{}'", brackets_.back(), c));
      brackets_.pop_back();
    }
  }

  void string() {
    const size_t begin = at_;
    const char quote = source_[at_++];
    while (at_ < source_.size() && source_[at_] != quote) at_ += source_[at_] == '\\' ? 2u : 1u;
    if (at_ >= source_.size()) fail(begin, "a text lacks its closing quote");
    push(TokenKind::kString, begin,
         decode_string_literal(std::string_view(source_).substr(begin + 1, at_ - begin - 1)));
    ++at_;
  }

  size_t skip_digits(size_t at) const {
    while (at < source_.size() && is_decimal(source_[at])) ++at;
    return at;
  }

  void number() {
    const size_t begin = at_;
    const bool after_dot = !tokens_.empty() && tokens_.back().is_symbol(".");
    at_ = skip_digits(at_);
    const bool is_real = !after_dot && fraction_and_exponent();
    const std::string digits = source_.substr(begin, at_ - begin);
    if (is_real) {
      const auto real = parse_real(digits);
      if (!real) fail(begin, fmt::format("'{}' is no number", digits));
      push(TokenKind::kReal, begin).real = *real;
      return;
    }
    const auto integer = parse_integer(digits);
    if (!integer) fail(begin, fmt::format("'{}' is no integer of 64 bits", digits.substr(0, 64)));
    push(TokenKind::kInteger, begin).integer = *integer;
  }

  bool fraction_and_exponent() {
    bool is_real = false;
    if (at_ + 1 < source_.size() && source_[at_] == '.' && is_decimal(source_[at_ + 1])) {
      at_ = skip_digits(at_ + 1);
      is_real = true;
    }
    if (at_ < source_.size() && (source_[at_] | 32) == 'e') {
      size_t exponent = at_ + 1;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-'))
        ++exponent;
      if (exponent < source_.size() && is_decimal(source_[exponent])) {
        at_ = skip_digits(exponent);
        is_real = true;
      }
    }
    return is_real;
  }

  std::string source_;
  size_t at_ = 0;
  // Whether the text at at_ begins a line, as far as the last tag's end tells.
  bool starts_line_ = true;
  std::string brackets_;  // the closing brackets wanted, innermost last
  std::vector<Token> tokens_;
  size_t located_ = 0;
  uint32_t line_ = 1;
  size_t line_begin_ = 0;
};

}  // namespace

void fail_at(uint32_t line, uint32_t column, const std::string& message) {
  throw Error(ErrorCode::kTemplate, message,
              fmt::format("chat template, line {}, column {}", line, column), kTemplateRemedy);
}

std::vector<Token> tokenize(std::string_view source) { return Lexer(normalised(source)).run(); }

}  // namespace strata::engine::jinja
