#include "engine/template/token_stream.h"

namespace strata::engine::jinja {

std::string TokenStream::describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kText:
      return "text";
    case TokenKind::kPrintBegin:
      return "'{{'";
    case TokenKind::kPrintEnd:
      return "'}}'";
    case TokenKind::kBlockBegin:
      return "'{%'";
    case TokenKind::kBlockEnd:
      return "'%}'";
    case TokenKind::kString:
      return "a quoted text";
    case TokenKind::kInteger:
      return fmt::format("{}", token.integer);
    case TokenKind::kReal:
      return fmt::format("{}", token.real);
    case TokenKind::kEnd:
      return "the end of the template";
    case TokenKind::kName:
    case TokenKind::kSymbol:
      return fmt::format("'{}'", token.text.substr(0, 64));
  }
  return "a token";
}

NameTable::NameTable() {
  // In the order of FixedSymbol.
  for (const char* name : {"loop", "caller"}) intern(name);
}

Symbol NameTable::intern(const std::string& name) {
  const auto [found, is_first] = symbols_.try_emplace(name, static_cast<Symbol>(names_.size()));
  if (is_first) names_.push_back(name);
  return found->second;
}

}  // namespace strata::engine::jinja
