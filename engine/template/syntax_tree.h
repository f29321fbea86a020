// engine/template/syntax_tree.h - a parsed template. Trees are at most kMaxNesting deep, so walking
// or destroying one by recursion cannot overflow the stack.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/template/operators.h"
#include "engine/template/value.h"

namespace strata::engine::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;
using Symbol = uint32_t;  // index of a name in SyntaxTree::names

struct Call {
  ExpressionPtr callee;  // null for filters and tests
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};

struct Literal {
  Value value;
};
struct NameLookup {
  Symbol symbol;
};
struct ListDisplay {
  std::vector<ExpressionPtr> items;
  bool is_tuple;
};
struct DictDisplay {
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> items;
};
struct AttributeLookup {
  ExpressionPtr object;
  Text name;
};
struct ItemLookup {
  ExpressionPtr object;
  ExpressionPtr key;
};
struct SliceLookup {
  ExpressionPtr object;
  ExpressionPtr start, stop, step;
};  // parts may be null
struct FilterUse {
  ExpressionPtr input;
  std::string name;
  Call call;
};  // input null: the body of a filter block
struct TestUse {
  ExpressionPtr input;
  std::string name;
  Call call;
  bool is_negated;
};
enum class UnaryOp : uint8_t { kNegate, kPlus, kNot };
struct Unary {
  UnaryOp op;
  ExpressionPtr operand;
};
struct Binary {
  BinaryOp op;
  ExpressionPtr left, right;
};
struct Logic {
  bool is_and;
  ExpressionPtr left, right;
};
struct Concat {
  std::vector<ExpressionPtr> parts;
};
struct Comparison {
  ExpressionPtr first;
  std::vector<std::pair<CompareOp, ExpressionPtr>> rest;
};
struct Conditional {
  ExpressionPtr condition, then, otherwise;
};  // otherwise may be null: undefined

struct Expression {
  uint32_t line = 0;
  uint32_t depth = 1;  // expressions below it, itself included
  std::variant<Literal, NameLookup, ListDisplay, DictDisplay, AttributeLookup, ItemLookup,
               SliceLookup, Call, FilterUse, TestUse, Unary, Binary, Logic, Concat, Comparison,
               Conditional>
      node;
};

/// Where `for` and `set` put values: a name, a field of a namespace, or several of them.
struct Target {
  Symbol symbol = 0;
  Text field;                 // of the namespace `symbol`; null for a plain name
  std::vector<Target> parts;  // not empty: the value is unpacked
};

struct Statement;
using Block = std::vector<Statement>;

struct Output {
  std::string text;
};
struct Print {
  ExpressionPtr value;
};
struct IfStatement {
  std::vector<std::pair<ExpressionPtr, Block>> branches;
  Block otherwise;
};
struct ForStatement {
  Target target;
  ExpressionPtr items;
  ExpressionPtr filter;  // may be null
  bool is_recursive = false;
  Block body;
  Block otherwise;
};
struct SetStatement {
  Target target;
  ExpressionPtr value;
};
struct SetBlock {
  Target target;
  ExpressionPtr filter;
  Block body;
};  // filter's innermost input is null; may be null itself
struct MacroParameter {
  Symbol symbol;
  ExpressionPtr fallback;
};  // fallback may be null
struct MacroDefinition {
  std::string name;
  std::vector<MacroParameter> parameters;
  Block body;
};
struct MacroStatement {
  Symbol symbol;
  MacroDefinition macro;
};
struct CallBlock {
  ExpressionPtr call;
  MacroDefinition caller;
};
struct FilterBlock {
  ExpressionPtr filter;
  Block body;
};
struct GenerationBlock {
  Block body;
};  // what the model said; it has a scope and no other meaning here
struct DoStatement {
  ExpressionPtr value;
};
struct Break {};
struct Continue {};

struct Statement {
  uint32_t line = 0;
  std::variant<Output, Print, IfStatement, ForStatement, SetStatement, SetBlock, MacroStatement,
               CallBlock, FilterBlock, GenerationBlock, DoStatement, Break, Continue>
      node;
};

/// Names that every tree has, at these places.
enum FixedSymbol : Symbol { kLoopSymbol, kCallerSymbol };

struct SyntaxTree {
  Block body;
  std::vector<std::string> names;  // by Symbol
};

/// Errors: kTemplate (line, column, what was expected;
/// nesting or source beyond kMaxNesting and kMaxSourceBytes).
SyntaxTree parse_template(std::string_view source);

}  // namespace strata::engine::jinja
