#include "engine/template/expression_parser.h"

#include <algorithm>
#include <optional>

namespace strata::engine::jinja {
namespace {

uint32_t depth_of(const ExpressionPtr& expression) { return expression ? expression->depth : 0; }

std::optional<CompareOp> comparison_symbol(const Token& token) {
  if (token.kind != TokenKind::kSymbol) return std::nullopt;
  if (token.text == "==") return CompareOp::kEqual;
  if (token.text == "!=") return CompareOp::kNotEqual;
  if (token.text == "<") return CompareOp::kLess;
  if (token.text == "<=") return CompareOp::kLessEqual;
  if (token.text == ">") return CompareOp::kGreater;
  if (token.text == ">=") return CompareOp::kGreaterEqual;
  return std::nullopt;
}

std::optional<BinaryOp> product_symbol(const Token& token) {
  if (token.kind != TokenKind::kSymbol) return std::nullopt;
  if (token.text == "*") return BinaryOp::kMultiply;
  if (token.text == "/") return BinaryOp::kDivide;
  if (token.text == "//") return BinaryOp::kFloorDivide;
  if (token.text == "%") return BinaryOp::kModulo;
  return std::nullopt;
}

}  // namespace

ExpressionPtr ExpressionParser::make(uint32_t line, uint32_t depth_below,
                                     decltype(Expression::node) node) const {
  if (depth_below >= kMaxNesting) tokens_.fail_nesting();
  auto expression = std::make_unique<Expression>();
  expression->line = line;
  expression->depth = depth_below + 1;
  expression->node = std::move(node);
  return expression;
}

ExpressionPtr ExpressionParser::expression() {
  const TokenStream::Level level(tokens_);
  ExpressionPtr value = either();
  while (tokens_.peek().is_name("if")) {
    const uint32_t line = tokens_.take().line;
    ExpressionPtr condition = either();
    ExpressionPtr otherwise = tokens_.skip_name("else") ? expression() : nullptr;
    const uint32_t depth = std::max({depth_of(value), depth_of(condition), depth_of(otherwise)});
    value = make(line, depth,
                 Conditional{std::move(condition), std::move(value), std::move(otherwise)});
  }
  return value;
}

ExpressionPtr ExpressionParser::tuple_or_expression(bool with_condition) {
  const TokenStream::Level level(tokens_);
  const auto one = [&] { return with_condition ? expression() : either(); };
  const uint32_t line = tokens_.peek().line;
  ExpressionPtr first = one();
  if (!tokens_.peek().is_symbol(",")) return first;
  uint32_t depth = first->depth;
  ListDisplay items{{}, true};
  items.items.push_back(std::move(first));
  while (tokens_.skip_symbol(",")) {
    const Token& next = tokens_.peek();
    const bool ends = next.kind == TokenKind::kPrintEnd || next.kind == TokenKind::kBlockEnd ||
                      next.is_symbol(")") || next.is_symbol("=") || next.is_name("in");
    if (ends) break;
    items.items.push_back(one());
    depth = std::max(depth, items.items.back()->depth);
  }
  return make(line, depth, std::move(items));
}

ExpressionPtr ExpressionParser::either() {
  ExpressionPtr left = both();
  while (tokens_.peek().is_name("or")) {
    const uint32_t line = tokens_.take().line;
    ExpressionPtr right = both();
    const uint32_t depth = std::max(left->depth, right->depth);
    left = make(line, depth, Logic{false, std::move(left), std::move(right)});
  }
  return left;
}

ExpressionPtr ExpressionParser::both() {
  ExpressionPtr left = negation();
  while (tokens_.peek().is_name("and")) {
    const uint32_t line = tokens_.take().line;
    ExpressionPtr right = negation();
    const uint32_t depth = std::max(left->depth, right->depth);
    left = make(line, depth, Logic{true, std::move(left), std::move(right)});
  }
  return left;
}

ExpressionPtr ExpressionParser::negation() {
  const TokenStream::Level level(tokens_);
  if (!tokens_.peek().is_name("not")) return comparison();
  const uint32_t line = tokens_.take().line;
  ExpressionPtr operand = negation();
  const uint32_t depth = operand->depth;
  return make(line, depth, Unary{UnaryOp::kNot, std::move(operand)});
}

ExpressionPtr ExpressionParser::comparison() {
  const uint32_t line = tokens_.peek().line;
  ExpressionPtr first = sum();
  Comparison compare;
  uint32_t depth = first->depth;
  while (true) {
    std::optional<CompareOp> op = comparison_symbol(tokens_.peek());
    if (op) {
      tokens_.take();
    } else if (tokens_.skip_name("in")) {
      op = CompareOp::kIn;
    } else if (tokens_.peek().is_name("not") && tokens_.peek(1).is_name("in")) {
      tokens_.take();
      tokens_.take();
      op = CompareOp::kNotIn;
    } else {
      break;
    }
    compare.rest.emplace_back(*op, sum());
    depth = std::max(depth, compare.rest.back().second->depth);
  }
  if (compare.rest.empty()) return first;
  compare.first = std::move(first);
  return make(line, depth, std::move(compare));
}

ExpressionPtr ExpressionParser::sum() {
  ExpressionPtr left = concatenation();
  while (tokens_.peek().is_symbol("+") || tokens_.peek().is_symbol("-")) {
    const Token op = tokens_.take();
    ExpressionPtr right = concatenation();
    const uint32_t depth = std::max(left->depth, right->depth);
    const BinaryOp kind = op.text == "+" ? BinaryOp::kAdd : BinaryOp::kSubtract;
    left = make(op.line, depth, Binary{kind, std::move(left), std::move(right)});
  }
  return left;
}

ExpressionPtr ExpressionParser::concatenation() {
  const uint32_t line = tokens_.peek().line;
  ExpressionPtr first = product();
  if (!tokens_.peek().is_symbol("~")) return first;
  uint32_t depth = first->depth;
  Concat concat;
  concat.parts.push_back(std::move(first));
  while (tokens_.skip_symbol("~")) {
    concat.parts.push_back(product());
    depth = std::max(depth, concat.parts.back()->depth);
  }
  return make(line, depth, std::move(concat));
}

ExpressionPtr ExpressionParser::product() {
  ExpressionPtr left = unary(true);
  while (const auto op = product_symbol(tokens_.peek())) {
    const uint32_t line = tokens_.take().line;
    ExpressionPtr right = unary(true);
    const uint32_t depth = std::max(left->depth, right->depth);
    left = make(line, depth, Binary{*op, std::move(left), std::move(right)});
  }
  return left;
}

ExpressionPtr ExpressionParser::unary(bool with_filters) {
  const TokenStream::Level level(tokens_);
  ExpressionPtr value;
  if (tokens_.peek().is_symbol("-") || tokens_.peek().is_symbol("+")) {
    const Token sign = tokens_.take();
    ExpressionPtr operand = unary(false);
    const uint32_t depth = operand->depth;
    const UnaryOp op = sign.text == "-" ? UnaryOp::kNegate : UnaryOp::kPlus;
    value = make(sign.line, depth, Unary{op, std::move(operand)});
  } else {
    value = primary();
  }
  value = postfix(std::move(value));
  return with_filters ? filters_and_tests(std::move(value)) : std::move(value);
}

ExpressionPtr ExpressionParser::primary() {
  const Token& token = tokens_.peek();
  const uint32_t line = token.line;
  switch (token.kind) {
    case TokenKind::kName:
      return name_or_constant();
    case TokenKind::kInteger:
      return make(line, 0, Literal{tokens_.take().integer});
    case TokenKind::kReal:
      return make(line, 0, Literal{tokens_.take().real});
    case TokenKind::kString: {
      std::string text;
      while (tokens_.peek().kind == TokenKind::kString) text += tokens_.take().text;
      return make(line, 0, Literal{std::make_shared<const MarkedText>(std::move(text))});
    }
    default:
      break;
  }
  if (token.is_symbol("(")) return parenthesised();
  if (token.is_symbol("[")) return list_display();
  if (token.is_symbol("{")) return dict_display();
  tokens_.fail_expected("an expression");
}

ExpressionPtr ExpressionParser::name_or_constant() {
  const Token token = tokens_.take();
  const std::string& name = token.text;
  if (name == "true" || name == "True") return make(token.line, 0, Literal{true});
  if (name == "false" || name == "False") return make(token.line, 0, Literal{false});
  if (name == "none" || name == "None") return make(token.line, 0, Literal{None{}});
  return make(token.line, 0, NameLookup{names_.intern(name)});
}

ExpressionPtr ExpressionParser::parenthesised() {
  const uint32_t line = tokens_.take().line;
  if (tokens_.skip_symbol(")")) return make(line, 0, ListDisplay{{}, true});
  ExpressionPtr inner = tuple_or_expression(true);
  tokens_.expect_symbol(")");
  return inner;
}

ExpressionPtr ExpressionParser::list_display() {
  const uint32_t line = tokens_.take().line;
  ListDisplay list{{}, false};
  uint32_t depth = 0;
  while (!tokens_.skip_symbol("]")) {
    list.items.push_back(expression());
    depth = std::max(depth, list.items.back()->depth);
    if (!tokens_.peek().is_symbol("]")) tokens_.expect_symbol(",");
  }
  return make(line, depth, std::move(list));
}

ExpressionPtr ExpressionParser::dict_display() {
  const uint32_t line = tokens_.take().line;
  DictDisplay dict;
  uint32_t depth = 0;
  while (!tokens_.skip_symbol("}")) {
    ExpressionPtr key = expression();
    tokens_.expect_symbol(":");
    ExpressionPtr value = expression();
    depth = std::max({depth, key->depth, value->depth});
    dict.items.emplace_back(std::move(key), std::move(value));
    if (!tokens_.peek().is_symbol("}")) tokens_.expect_symbol(",");
  }
  return make(line, depth, std::move(dict));
}

Target ExpressionParser::one_target(bool allow_field) {
  const TokenStream::Level level(tokens_);
  if (tokens_.skip_symbol("(")) {
    Target inner = target(allow_field);
    tokens_.expect_symbol(")");
    return inner;
  }
  Target one;
  one.symbol = names_.intern(tokens_.take_name("a name to assign to"));
  if (allow_field && tokens_.skip_symbol(".")) {
    one.field = std::make_shared<const MarkedText>(tokens_.take_name("a field's name"));
  }
  return one;
}

Target ExpressionParser::target(bool allow_field) {
  Target first = one_target(allow_field);
  if (!tokens_.peek().is_symbol(",")) return first;
  Target several;
  several.parts.push_back(std::move(first));
  while (tokens_.skip_symbol(",")) {
    if (tokens_.peek().kind != TokenKind::kName && !tokens_.peek().is_symbol("(")) break;
    if (tokens_.peek().is_name("in")) break;
    several.parts.push_back(one_target(allow_field));
  }
  return several;
}

}  // namespace strata::engine::jinja
