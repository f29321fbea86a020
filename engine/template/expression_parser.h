// engine/template/expression_parser.h - expressions of the template language, by recursive descent.
// Binding, loosest first: if-else; or; and; not; comparisons, in; + -; ~; * / // %; unary + -;
// then, on a primary: . [] (), | filters, is tests. Unary signs bind tighter than filters.
#pragma once

#include "engine/template/token_stream.h"

namespace strata::engine::jinja {

class ExpressionParser {
 public:
  ExpressionParser(TokenStream& tokens, NameTable& names) : tokens_(tokens), names_(names) {}

  ExpressionPtr expression();
  /// One or more expressions with commas between, a tuple where there is a comma; `with_condition`
  /// allows a-if-b.
  ExpressionPtr tuple_or_expression(bool with_condition);
  /// name|name(...)... of a filter block; the innermost input is null.
  ExpressionPtr filter_chain();
  /// (a, b=1), the opening bracket being next: a macro's parameters.
  std::vector<MacroParameter> parameters();
  /// What stands left of `in` or `=`.
  Target target(bool allow_field);

 private:
  ExpressionPtr make(uint32_t line, uint32_t depth_below, decltype(Expression::node) node) const;
  ExpressionPtr either();
  ExpressionPtr both();
  ExpressionPtr negation();
  ExpressionPtr comparison();
  ExpressionPtr sum();
  ExpressionPtr concatenation();
  ExpressionPtr product();
  ExpressionPtr unary(bool with_filters);
  ExpressionPtr primary();
  ExpressionPtr name_or_constant();
  ExpressionPtr parenthesised();
  ExpressionPtr list_display();
  ExpressionPtr dict_display();
  ExpressionPtr postfix(ExpressionPtr of);
  ExpressionPtr attribute(ExpressionPtr of);
  ExpressionPtr subscript(ExpressionPtr of);
  ExpressionPtr call(ExpressionPtr of);
  ExpressionPtr filters_and_tests(ExpressionPtr of);
  ExpressionPtr one_filter(ExpressionPtr of);
  ExpressionPtr one_test(ExpressionPtr of);
  /// (arguments), the opening bracket being next. `depth` grows to the deepest argument's.
  Call arguments(uint32_t* depth);
  bool starts_test_argument() const;
  Target one_target(bool allow_field);

  TokenStream& tokens_;
  NameTable& names_;
};

}  // namespace strata::engine::jinja
