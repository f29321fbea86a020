// engine/template/token_stream.h - tokens under a parser's reading point,
// and the guard of its recursion.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/template/lexer.h"
#include "engine/template/runtime.h"
#include "engine/template/syntax_tree.h"

namespace strata::engine::jinja {

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& peek(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];  // the last one is kEnd
  }
  Token take() {
    Token token = peek();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool skip_symbol(std::string_view symbol) { return skip_if(peek().is_symbol(symbol)); }
  bool skip_name(std::string_view name) { return skip_if(peek().is_name(name)); }

  void expect_symbol(std::string_view symbol) {
    if (!skip_symbol(symbol)) fail_expected(fmt::format("'{}'", symbol));
  }
  void expect_name(std::string_view name) {
    if (!skip_name(name)) fail_expected(fmt::format("'{}'", name));
  }
  void expect(TokenKind kind, std::string_view what) {
    if (!skip_if(peek().kind == kind)) fail_expected(what);
  }
  std::string take_name(std::string_view what) {
    if (peek().kind != TokenKind::kName) fail_expected(what);
    return take().text;
  }

  [[noreturn]] void fail(const std::string& message) const {
    fail_at(peek().line, peek().column, message);
  }
  [[noreturn]] void fail_expected(std::string_view wanted) const {
    fail(fmt::format("expected {}, found {}", wanted, describe(peek())));
  }
  static std::string describe(const Token& token);

  /// One level of nesting in the source, left at the end of the scope.
  class Level {
   public:
    explicit Level(TokenStream& tokens) : tokens_(tokens) {
      if (++tokens_.level_ > kMaxNesting) {
        --tokens_.level_;
        tokens_.fail_nesting();
      }
    }
    ~Level() { --tokens_.level_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    TokenStream& tokens_;
  };
  [[noreturn]] void fail_nesting() const {
    fail(fmt::format("expressions or statements are nested deeper than {}", kMaxNesting));
  }

 private:
  bool skip_if(bool condition) {
    if (condition) take();
    return condition;
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  uint32_t level_ = 0;
};

/// Names of variables, each once.
class NameTable {
 public:
  NameTable();  // holds the FixedSymbols
  Symbol intern(const std::string& name);
  std::vector<std::string> take() { return std::move(names_); }

 private:
  std::vector<std::string> names_;
  std::unordered_map<std::string, Symbol> symbols_;
};

}  // namespace strata::engine::jinja
