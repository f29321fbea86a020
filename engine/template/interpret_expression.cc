// The part of Interpreter that evaluates expressions and calls macros.
#include <fmt/format.h>

#include <algorithm>

#include "engine/template/access.h"
#include "engine/template/filters.h"
#include "engine/template/functions.h"
#include "engine/template/interpreter.h"
#include "engine/template/loop.h"
#include "engine/template/methods.h"
#include "engine/template/value_tests.h"
#include "engine/template/value_text.h"

namespace strata::engine::jinja {

Value Interpreter::eval(const Expression& expression) {
  const Runtime::Frame frame(rt_);
  rt_.step();
  const uint32_t outside = rt_.line();
  rt_.set_line(expression.line);
  Value value = std::visit([&](const auto& node) { return eval_node(node); }, expression.node);
  rt_.set_line(outside);
  return value;
}

Value Interpreter::eval_or_none(const ExpressionPtr& expression) {
  return expression ? eval(*expression) : Value(None{});
}

Value Interpreter::look_up(Symbol symbol) {
  uint64_t n_visited = 0;
  for (const Scope* scope = scope_.get(); scope; scope = scope->parent.get()) {
    n_visited += 1 + scope->names.size();
    for (const auto& [name, value] : scope->names) {
      if (name != symbol) continue;
      rt_.visit_items(n_visited);
      return value;
    }
  }
  rt_.visit_items(n_visited);
  if (top_level_[symbol]) return *top_level_[symbol];
  return Undefined{std::get<Text>(rt_.text(tree_.names[symbol]))};
}

Value Interpreter::eval_node(const Literal& node) { return node.value; }
Value Interpreter::eval_node(const NameLookup& node) { return look_up(node.symbol); }

Value Interpreter::eval_node(const ListDisplay& node) {
  std::vector<Value> items;
  items.reserve(node.items.size());
  for (const ExpressionPtr& item : node.items) items.push_back(eval(*item));
  return rt_.sequence(node.is_tuple ? SequenceKind::kTuple : SequenceKind::kList, std::move(items));
}

Value Interpreter::eval_node(const DictDisplay& node) {
  Mapping* mapping = rt_.mapping();
  for (const auto& [key, value] : node.items) {
    const Value evaluated_key = eval(*key);
    set_key(rt_, *mapping, evaluated_key, eval(*value));
  }
  return mapping;
}

Value Interpreter::eval_node(const AttributeLookup& node) {
  const Value object = eval(*node.object);
  return get_attribute(rt_, object, node.name);
}

Value Interpreter::eval_node(const ItemLookup& node) {
  const Value object = eval(*node.object);
  return get_item(rt_, object, eval(*node.key));
}

Value Interpreter::eval_node(const SliceLookup& node) {
  const Value object = eval(*node.object);
  const Value start = eval_or_none(node.start);
  const Value stop = eval_or_none(node.stop);
  return get_slice(rt_, object, start, stop, eval_or_none(node.step));
}

Arguments Interpreter::eval_arguments(const Call& call) {
  Arguments arguments;
  for (const ExpressionPtr& argument : call.positional)
    arguments.positional.push_back(eval(*argument));
  for (const auto& [name, argument] : call.named)
    arguments.named.emplace_back(name, eval(*argument));
  return arguments;
}

Value Interpreter::eval_node(const Call& node) { return call_with(node, eval_arguments(node)); }

Value Interpreter::call_with(const Call& call, const Arguments& arguments) {
  // A method is called without making a value of it first.
  if (const auto* attribute = std::get_if<AttributeLookup>(&call.callee->node)) {
    const Value object = eval(*attribute->object);
    if (const MethodFn method = find_method(object, attribute->name->bytes())) {
      return method(rt_, object, arguments);
    }
    return call_value(get_attribute(rt_, object, attribute->name), arguments);
  }
  return call_value(eval(*call.callee), arguments);
}

Value Interpreter::call_value(const Value& callee, const Arguments& arguments) {
  require_defined(rt_, callee);
  if (const auto* function = as_object<Function>(callee, ObjectKind::kFunction)) {
    return function->run(rt_, arguments);
  }
  if (const auto* method = as_object<BoundMethod>(callee, ObjectKind::kMethod)) {
    return method->method(rt_, method->self, arguments);
  }
  if (const auto* macro = as_object<Macro>(callee, ObjectKind::kMacro))
    return call_macro(*macro, arguments);
  if (const auto* loop = as_object<Loop>(callee, ObjectKind::kLoop); loop && loop->recursive) {
    const Parameters p(rt_, "loop", arguments, {"iterable"}, 1);
    const Runtime::CallLevel level(rt_);
    // The inner loop runs where the outer one does. A scope of its own for each level would make
    // chains of scopes as long as a template likes, as a namespace can hold a loop and call it
    // again.
    const std::shared_ptr<Scope> outer_scope = std::exchange(scope_, loop->scope);
    MarkedText text;
    MarkedText* const outside = std::exchange(out_, &text);
    run_loop(*loop->recursive, p.get(0), loop->depth0() + 1);
    out_ = outside;
    scope_ = outer_scope;
    return rt_.held_text(std::move(text));
  }
  rt_.fail(fmt::format("{} cannot be called", type_name(callee)));
}

void Interpreter::check_arguments(const MacroDefinition& macro, const Arguments& arguments) const {
  if (arguments.positional.size() > macro.parameters.size()) {
    rt_.fail(fmt::format("macro '{}' takes at most {} arguments, {} given", macro.name,
                         macro.parameters.size(), arguments.positional.size()));
  }
  for (const auto& [name, value] : arguments.named) {
    const auto is_it = [&, wanted = std::string_view(name)](const MacroParameter& parameter) {
      return tree_.names[parameter.symbol] == wanted;
    };
    if (name != "caller" && std::ranges::none_of(macro.parameters, is_it)) {
      rt_.fail(fmt::format("macro '{}' has no argument named '{}'", macro.name, name));
    }
  }
}

void Interpreter::bind_parameters(const MacroDefinition& macro, const Arguments& arguments) {
  for (const auto& [name, value] : arguments.named) {
    if (name == "caller") set_name(kCallerSymbol, value);
  }
  // Given ones first: a fallback sees the parameters, not the variables of the same names outside.
  std::vector<const MacroParameter*> not_given;
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const MacroParameter& parameter = macro.parameters[i];
    const std::string& name = tree_.names[parameter.symbol];
    const auto named = std::find_if(arguments.named.begin(), arguments.named.end(),
                                    [&](const auto& argument) { return argument.first == name; });
    const bool is_named = named != arguments.named.end();
    if (i < arguments.positional.size()) {
      if (is_named) {
        rt_.fail(fmt::format("macro '{}' got its argument '{}' twice", macro.name, name));
      }
      set_name(parameter.symbol, arguments.positional[i]);
    } else {
      set_name(parameter.symbol,
               is_named ? named->second : Value(Undefined{std::get<Text>(rt_.text(name))}));
      if (!is_named) not_given.push_back(&parameter);
    }
  }
  for (const MacroParameter* parameter : not_given) {
    if (parameter->fallback) set_name(parameter->symbol, eval(*parameter->fallback));
  }
}

Value Interpreter::call_macro(const Macro& macro, const Arguments& arguments) {
  const Runtime::CallLevel level(rt_);
  const ScopeEntry entry(*this, macro.closure);
  check_arguments(*macro.definition, arguments);
  bind_parameters(*macro.definition, arguments);
  MarkedText text;
  MarkedText* const outside = std::exchange(out_, &text);
  exec(macro.definition->body);
  out_ = outside;
  return rt_.held_text(std::move(text));
}

Value Interpreter::eval_node(const FilterUse& node) {
  const Value input = node.input ? eval(*node.input) : *block_text_;
  return apply_filter(rt_, node.name, input, eval_arguments(node.call));
}

Value Interpreter::eval_node(const TestUse& node) {
  const Value input = eval(*node.input);
  return apply_test(rt_, node.name, input, eval_arguments(node.call)) != node.is_negated;
}

Value Interpreter::eval_node(const Unary& node) {
  const Value operand = eval(*node.operand);
  if (node.op == UnaryOp::kNot) return !is_true(operand);
  if (node.op == UnaryOp::kNegate) return apply_negate(rt_, operand);
  return apply_binary(rt_, BinaryOp::kAdd, int64_t{0}, operand);
}

Value Interpreter::eval_node(const Binary& node) {
  const Value left = eval(*node.left);
  return apply_binary(rt_, node.op, left, eval(*node.right));
}

Value Interpreter::eval_node(const Logic& node) {
  Value left = eval(*node.left);
  return is_true(left) == node.is_and ? eval(*node.right) : left;
}

Value Interpreter::eval_node(const Concat& node) {
  MarkedText joined;
  for (const ExpressionPtr& part : node.parts) {
    const Value value = eval(*part);
    const Text text = shared_text(rt_, value);
    rt_.scan_bytes(text->size());
    rt_.hold(text->memory_bytes());
    joined.append(*text);
  }
  return rt_.held_text(std::move(joined));
}

Value Interpreter::eval_node(const Comparison& node) {
  Value left = eval(*node.first);
  for (const auto& [op, operand] : node.rest) {
    Value right = eval(*operand);
    if (!apply_compare(rt_, op, left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::eval_node(const Conditional& node) {
  if (is_true(eval(*node.condition))) return eval(*node.then);
  return node.otherwise ? eval(*node.otherwise) : Value(Undefined{});
}

}  // namespace strata::engine::jinja
