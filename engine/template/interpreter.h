// engine/template/interpreter.h - runs a parsed template.
// Scopes: a loop's round, a macro, and the bodies of filter, call, generation and block-set have
// one of their own; `if` has none. What is set inside a scope is gone behind it; namespaces are how
// templates carry values out.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/template/runtime.h"
#include "engine/template/syntax_tree.h"

namespace strata::engine::jinja {

/// Variables of one scope; the top level's are the interpreter's own.
struct Scope {
  explicit Scope(std::shared_ptr<Scope> outer) : parent(std::move(outer)) {}
  std::shared_ptr<Scope> parent;  // null = the top level is next
  std::vector<std::pair<Symbol, Value>> names;
};

struct Macro final : Object {
  Macro(const MacroDefinition* of, std::shared_ptr<Scope> at)
      : Object(ObjectKind::kMacro), definition(of), closure(std::move(at)) {}
  const MacroDefinition* definition;
  std::shared_ptr<Scope> closure;
};

class Interpreter {
 public:
  /// Borrows both for its life.
  Interpreter(const SyntaxTree& tree, Runtime& rt);

  /// Sets a variable of the top level.
  void define(std::string_view name, const Value& value);
  /// Runs the template once. Errors: kTemplate.
  MarkedText run();

 private:
  enum class Flow : uint8_t { kNext, kBreak, kContinue };

  // Expressions (interpret_expression.cc).
  Value eval(const Expression& expression);
  Value eval_node(const Literal& node);
  Value eval_node(const NameLookup& node);
  Value eval_node(const ListDisplay& node);
  Value eval_node(const DictDisplay& node);
  Value eval_node(const AttributeLookup& node);
  Value eval_node(const ItemLookup& node);
  Value eval_node(const SliceLookup& node);
  Value eval_node(const Call& node);
  Value eval_node(const FilterUse& node);
  Value eval_node(const TestUse& node);
  Value eval_node(const Unary& node);
  Value eval_node(const Binary& node);
  Value eval_node(const Logic& node);
  Value eval_node(const Concat& node);
  Value eval_node(const Comparison& node);
  Value eval_node(const Conditional& node);
  Value eval_or_none(const ExpressionPtr& expression);
  Arguments eval_arguments(const Call& call);
  Value call_value(const Value& callee, const Arguments& arguments);
  Value call_with(const Call& call, const Arguments& arguments);
  Value call_macro(const Macro& macro, const Arguments& arguments);
  void bind_parameters(const MacroDefinition& macro, const Arguments& arguments);
  void check_arguments(const MacroDefinition& macro, const Arguments& arguments) const;
  Value look_up(Symbol symbol);

  // Statements (interpreter.cc).
  Flow exec(const Block& block);
  Flow exec_node(const Output& node);
  Flow exec_node(const Print& node);
  Flow exec_node(const IfStatement& node);
  Flow exec_node(const ForStatement& node);
  Flow exec_node(const SetStatement& node);
  Flow exec_node(const SetBlock& node);
  Flow exec_node(const MacroStatement& node);
  Flow exec_node(const CallBlock& node);
  Flow exec_node(const FilterBlock& node);
  Flow exec_node(const GenerationBlock& node);
  Flow exec_node(const DoStatement& node);
  Flow exec_node(const Break& node);
  Flow exec_node(const Continue& node);
  Flow run_loop(const ForStatement& node, const Value& items, uint32_t depth0);
  bool draw(const ForStatement& node, class Cursor& cursor, const std::shared_ptr<Scope>& outer,
            Value* out);

  void set_name(Symbol symbol, const Value& value);
  void assign(const Target& target, const Value& value);
  void emit(const MarkedText& text);
  void emit_plain(std::string_view text);
  void count_output(uint64_t bytes, uint64_t memory);
  /// Runs `block` in a scope of its own with its output held back in `out`.
  Flow capture(const Block& block, MarkedText* out);
  Value filtered(const ExpressionPtr& filter, MarkedText text);

  /// Enters a scope inside `parent`; the old one is back at the end of the C++ scope.
  class ScopeEntry {
   public:
    ScopeEntry(Interpreter& in, std::shared_ptr<Scope> parent) : in_(in), outside_(in.scope_) {
      in.scope_ = std::make_shared<Scope>(std::move(parent));
    }
    ~ScopeEntry() { in_.scope_ = std::move(outside_); }
    ScopeEntry(const ScopeEntry&) = delete;
    ScopeEntry& operator=(const ScopeEntry&) = delete;

   private:
    Interpreter& in_;
    std::shared_ptr<Scope> outside_;
  };

  const SyntaxTree& tree_;
  Runtime& rt_;
  std::vector<std::optional<Value>> top_level_;  // by symbol
  std::shared_ptr<Scope> scope_;                 // null = the top level
  MarkedText output_;
  MarkedText* out_ = &output_;
  std::optional<Value> block_text_;  // what the null input of a filter block's chain stands for
};

}  // namespace strata::engine::jinja
