#include "engine/template/interpreter.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/template/access.h"
#include "engine/template/loop.h"
#include "engine/template/value_text.h"

namespace strata::engine::jinja {

Interpreter::Interpreter(const SyntaxTree& tree, Runtime& rt)
    : tree_(tree), rt_(rt), top_level_(tree.names.size()) {}

void Interpreter::define(std::string_view name, const Value& value) {
  const auto found = std::find(tree_.names.begin(), tree_.names.end(), name);
  if (found == tree_.names.end()) return;  // the template never mentions it
  top_level_[static_cast<size_t>(found - tree_.names.begin())] = value;
}

MarkedText Interpreter::run() {
  exec(tree_.body);
  return std::move(output_);
}

void Interpreter::count_output(uint64_t bytes, uint64_t memory) {
  rt_.scan_bytes(bytes);
  // The output has a budget of its own; only its marks count as memory.
  rt_.hold(out_ == &output_ ? memory - bytes : memory);
  if (out_ == &output_ && bytes > rt_.limits().output_bytes - output_.size()) {
    rt_.fail(
        fmt::format("the template's output budget of {} bytes ran out", rt_.limits().output_bytes));
  }
}

void Interpreter::emit(const MarkedText& text) {
  count_output(text.size(), text.memory_bytes());
  out_->append(text);
}

void Interpreter::emit_plain(std::string_view text) {
  count_output(text.size(), text.size());
  out_->append(text);
}

void Interpreter::set_name(Symbol symbol, const Value& value) {
  if (!scope_) {
    top_level_[symbol] = value;
    return;
  }
  rt_.visit_items(scope_->names.size());
  for (auto& [name, held] : scope_->names) {
    if (name == symbol) {
      held = value;
      return;
    }
  }
  scope_->names.emplace_back(symbol, value);
}

void Interpreter::assign(const Target& target, const Value& value) {
  if (!target.parts.empty()) {
    const std::vector<Value> items = collect_items(rt_, value);
    if (items.size() != target.parts.size()) {
      rt_.fail(fmt::format("{} values cannot be unpacked into {} names", items.size(),
                           target.parts.size()));
    }
    for (size_t i = 0; i < items.size(); ++i) assign(target.parts[i], items[i]);
    return;
  }
  if (!target.field) {
    set_name(target.symbol, value);
    return;
  }
  auto* space = as_object<Namespace>(look_up(target.symbol), ObjectKind::kNamespace);
  if (!space)
    rt_.fail(fmt::format("'{}' is no namespace, so its fields cannot be set",
                         tree_.names[target.symbol]));
  rt_.visit_items(space->fields.size());
  for (auto& [name, held] : space->fields) {
    if (name.bytes() == target.field->bytes()) {
      held = value;
      return;
    }
  }
  rt_.hold_items(2);
  space->fields.emplace_back(*target.field, value);
}

Interpreter::Flow Interpreter::exec(const Block& block) {
  const Runtime::Frame frame(rt_);
  for (const Statement& statement : block) {
    rt_.step();
    const uint32_t outside = rt_.line();
    rt_.set_line(statement.line);
    const Flow flow = std::visit([&](const auto& node) { return exec_node(node); }, statement.node);
    rt_.set_line(outside);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::exec_node(const Output& node) {
  emit_plain(node.text);
  return Flow::kNext;
}

Interpreter::Flow Interpreter::exec_node(const Print& node) {
  const Value value = eval(*node.value);
  if (const MarkedText* text = as_text(value)) {
    emit(*text);
  } else {
    emit(print_text(rt_, value));
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::exec_node(const IfStatement& node) {
  for (const auto& [condition, body] : node.branches) {
    if (is_true(eval(*condition))) return exec(body);
  }
  return exec(node.otherwise);
}

Interpreter::Flow Interpreter::exec_node(const ForStatement& node) {
  return run_loop(node, eval(*node.items), 0);
}

bool Interpreter::draw(const ForStatement& node, Cursor& cursor,
                       const std::shared_ptr<Scope>& outer, Value* out) {
  while (cursor.next(out)) {
    if (!node.filter) return true;
    const ScopeEntry entry(*this, outer);
    assign(node.target, *out);
    if (is_true(eval(*node.filter))) return true;
  }
  return false;
}

Interpreter::Flow Interpreter::run_loop(const ForStatement& node, const Value& items,
                                        uint32_t depth0) {
  const std::shared_ptr<Scope> outer = scope_;
  // The loop object may outlive this call (a namespace can hold it), so its drawing owns the cursor
  // and the scope.
  const auto cursor = std::make_shared<Cursor>(rt_, items);
  auto* loop = rt_.make<Loop>(
      [this, &node, cursor, outer](Value* out) { return draw(node, *cursor, outer, out); }, depth0);
  if (node.is_recursive) {
    loop->recursive = &node;
    loop->scope = outer;
  }
  bool has_run = false;
  while (loop->advance(rt_)) {
    const ScopeEntry entry(*this, outer);
    set_name(kLoopSymbol, loop);
    assign(node.target, loop->current());
    const Flow flow = exec(node.body);
    if (flow == Flow::kBreak) break;
    // As Jinja2 does it: `else` runs unless some round reached its end.
    has_run = has_run || flow == Flow::kNext;
  }
  if (has_run) return Flow::kNext;
  const ScopeEntry entry(*this, outer);
  return exec(node.otherwise);
}

Interpreter::Flow Interpreter::exec_node(const SetStatement& node) {
  assign(node.target, eval(*node.value));
  return Flow::kNext;
}

Interpreter::Flow Interpreter::capture(const Block& block, MarkedText* out) {
  const ScopeEntry entry(*this, scope_);
  MarkedText* const outside = std::exchange(out_, out);
  const Flow flow = exec(block);
  out_ = outside;
  return flow;
}

Value Interpreter::filtered(const ExpressionPtr& filter, MarkedText text) {
  if (!filter) return rt_.held_text(std::move(text));
  std::optional<Value> outside = std::exchange(block_text_, rt_.held_text(std::move(text)));
  const Value value = eval(*filter);
  block_text_ = std::move(outside);
  return value;
}

Interpreter::Flow Interpreter::exec_node(const SetBlock& node) {
  MarkedText text;
  const Flow flow = capture(node.body, &text);
  if (flow == Flow::kNext) assign(node.target, filtered(node.filter, std::move(text)));
  return flow;
}

Interpreter::Flow Interpreter::exec_node(const MacroStatement& node) {
  set_name(node.symbol, rt_.make<Macro>(&node.macro, scope_));
  return Flow::kNext;
}

Interpreter::Flow Interpreter::exec_node(const CallBlock& node) {
  const auto& call = std::get<Call>(node.call->node);
  Arguments arguments = eval_arguments(call);
  arguments.named.emplace_back("caller", rt_.make<Macro>(&node.caller, scope_));
  emit(print_text(rt_, call_with(call, arguments)));
  return Flow::kNext;
}

Interpreter::Flow Interpreter::exec_node(const FilterBlock& node) {
  MarkedText text;
  const Flow flow = capture(node.body, &text);
  if (flow == Flow::kNext) emit(print_text(rt_, filtered(node.filter, std::move(text))));
  return flow;
}

Interpreter::Flow Interpreter::exec_node(const GenerationBlock& node) {
  const ScopeEntry entry(*this, scope_);
  return exec(node.body);
}

Interpreter::Flow Interpreter::exec_node(const DoStatement& node) {
  eval(*node.value);
  return Flow::kNext;
}

Interpreter::Flow Interpreter::exec_node(const Break&) { return Flow::kBreak; }
Interpreter::Flow Interpreter::exec_node(const Continue&) { return Flow::kContinue; }

}  // namespace strata::engine::jinja
