// The part of ExpressionParser behind a primary: attributes, items, slices, calls, filters, tests,
// and their arguments.
#include <algorithm>

#include "engine/template/expression_parser.h"

namespace strata::engine::jinja {

ExpressionPtr ExpressionParser::postfix(ExpressionPtr of) {
  while (true) {
    const Token& next = tokens_.peek();
    if (next.is_symbol(".")) {
      of = attribute(std::move(of));
    } else if (next.is_symbol("[")) {
      of = subscript(std::move(of));
    } else if (next.is_symbol("(")) {
      of = call(std::move(of));
    } else {
      return of;
    }
  }
}

ExpressionPtr ExpressionParser::attribute(ExpressionPtr of) {
  const uint32_t line = tokens_.take().line;
  const uint32_t depth = of->depth;
  if (tokens_.peek().kind == TokenKind::kInteger) {
    ExpressionPtr index = make(line, 0, Literal{tokens_.take().integer});
    return make(line, depth, ItemLookup{std::move(of), std::move(index)});
  }
  auto name = std::make_shared<const MarkedText>(tokens_.take_name("a name or a number after '.'"));
  return make(line, depth, AttributeLookup{std::move(of), std::move(name)});
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr of) {
  const uint32_t line = tokens_.take().line;
  const auto at_part_end = [&] {
    return tokens_.peek().is_symbol(":") || tokens_.peek().is_symbol("]");
  };
  ExpressionPtr first = at_part_end() ? nullptr : tuple_or_expression(true);
  if (!tokens_.skip_symbol(":")) {
    if (!first) tokens_.fail_expected("an index");
    tokens_.expect_symbol("]");
    const uint32_t depth = std::max(of->depth, first->depth);
    return make(line, depth, ItemLookup{std::move(of), std::move(first)});
  }
  ExpressionPtr stop = at_part_end() ? nullptr : expression();
  ExpressionPtr step;
  if (tokens_.skip_symbol(":") && !tokens_.peek().is_symbol("]")) step = expression();
  tokens_.expect_symbol("]");
  uint32_t depth = of->depth;
  for (const ExpressionPtr* part : {&first, &stop, &step}) {
    if (*part) depth = std::max(depth, (*part)->depth);
  }
  return make(line, depth,
              SliceLookup{std::move(of), std::move(first), std::move(stop), std::move(step)});
}

ExpressionPtr ExpressionParser::call(ExpressionPtr of) {
  const uint32_t line = tokens_.peek().line;
  uint32_t depth = of->depth;
  Call call = arguments(&depth);
  call.callee = std::move(of);
  return make(line, depth, std::move(call));
}

Call ExpressionParser::arguments(uint32_t* depth) {
  Call call;
  tokens_.expect_symbol("(");
  while (!tokens_.skip_symbol(")")) {
    std::string name;
    if (tokens_.peek().kind == TokenKind::kName && tokens_.peek(1).is_symbol("=")) {
      name = tokens_.take().text;
      tokens_.take();
    } else if (!call.named.empty()) {
      tokens_.fail("a positional argument stands behind a named one");
    }
    ExpressionPtr value = expression();
    *depth = std::max(*depth, value->depth);
    if (name.empty()) {
      call.positional.push_back(std::move(value));
    } else {
      call.named.emplace_back(std::move(name), std::move(value));
    }
    if (!tokens_.peek().is_symbol(")")) tokens_.expect_symbol(",");
  }
  return call;
}

ExpressionPtr ExpressionParser::filters_and_tests(ExpressionPtr of) {
  while (true) {
    const Token& next = tokens_.peek();
    if (next.is_symbol("|")) {
      tokens_.take();
      of = one_filter(std::move(of));
    } else if (next.is_name("is")) {
      of = one_test(std::move(of));
    } else if (next.is_symbol("(")) {
      of = call(std::move(of));
    } else {
      return of;
    }
  }
}

ExpressionPtr ExpressionParser::one_filter(ExpressionPtr of) {
  const uint32_t line = tokens_.peek().line;
  FilterUse use;
  uint32_t depth = of ? of->depth : 0;
  use.name = tokens_.take_name("a filter's name");
  if (tokens_.peek().is_symbol("(")) use.call = arguments(&depth);
  use.input = std::move(of);
  return make(line, depth, std::move(use));
}

ExpressionPtr ExpressionParser::filter_chain() {
  ExpressionPtr chain = one_filter(nullptr);
  while (tokens_.skip_symbol("|")) chain = one_filter(std::move(chain));
  return chain;
}

bool ExpressionParser::starts_test_argument() const {
  const Token& next = tokens_.peek();
  switch (next.kind) {
    case TokenKind::kString:
    case TokenKind::kInteger:
    case TokenKind::kReal:
      return true;
    case TokenKind::kSymbol:
      return next.text == "(" || next.text == "[" || next.text == "{";
    case TokenKind::kName:
      break;
    default:
      return false;
  }
  for (const char* keyword : {"else", "or", "and", "if", "is", "in", "not"}) {
    if (next.text == keyword) return false;
  }
  return true;
}

ExpressionPtr ExpressionParser::one_test(ExpressionPtr of) {
  const uint32_t line = tokens_.take().line;
  TestUse use;
  uint32_t depth = of->depth;
  use.is_negated = tokens_.skip_name("not");
  use.name = tokens_.take_name("a test's name");
  if (tokens_.peek().is_symbol("(")) {
    use.call = arguments(&depth);
  } else if (starts_test_argument()) {
    const TokenStream::Level level(tokens_);
    use.call.positional.push_back(postfix(primary()));
    depth = std::max(depth, use.call.positional.back()->depth);
  }
  use.input = std::move(of);
  return make(line, depth, std::move(use));
}

std::vector<MacroParameter> ExpressionParser::parameters() {
  std::vector<MacroParameter> all;
  tokens_.expect_symbol("(");
  while (!tokens_.skip_symbol(")")) {
    MacroParameter parameter{names_.intern(tokens_.take_name("a parameter's name")), nullptr};
    if (tokens_.skip_symbol("=")) {
      parameter.fallback = expression();
    } else if (!all.empty() && all.back().fallback) {
      tokens_.fail("a parameter without default stands behind one with a default");
    }
    all.push_back(std::move(parameter));
    if (!tokens_.peek().is_symbol(")")) tokens_.expect_symbol(",");
  }
  return all;
}

}  // namespace strata::engine::jinja
