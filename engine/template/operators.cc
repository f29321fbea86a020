#include "engine/template/operators.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/template/access.h"
#include "engine/template/number_text.h"
#include "engine/template/text_search.h"

namespace strata::engine::jinja {
namespace {

std::string_view symbol_of(BinaryOp op) {
  switch (op) {
    case BinaryOp::kAdd:
      return "+";
    case BinaryOp::kSubtract:
      return "-";
    case BinaryOp::kMultiply:
      return "*";
    case BinaryOp::kDivide:
      return "/";
    case BinaryOp::kFloorDivide:
      return "//";
    case BinaryOp::kModulo:
      return "%";
  }
  return "?";
}

[[noreturn]] void fail_operands(Runtime& rt, std::string_view symbol, const Value& left,
                                const Value& right) {
  rt.fail(
      fmt::format("'{}' does not apply to {} and {}", symbol, type_name(left), type_name(right)));
}

[[noreturn]] void fail_overflow(Runtime& rt, BinaryOp op) {
  rt.fail(fmt::format("the result of '{}' does not fit 64 bits", symbol_of(op)));
}

Value integer_arithmetic(Runtime& rt, BinaryOp op, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (op) {
    case BinaryOp::kAdd:
      if (__builtin_add_overflow(a, b, &result)) fail_overflow(rt, op);
      return result;
    case BinaryOp::kSubtract:
      if (__builtin_sub_overflow(a, b, &result)) fail_overflow(rt, op);
      return result;
    case BinaryOp::kMultiply:
      if (__builtin_mul_overflow(a, b, &result)) fail_overflow(rt, op);
      return result;
    case BinaryOp::kDivide:
      return static_cast<double>(a) / static_cast<double>(b);
    case BinaryOp::kFloorDivide: {
      const auto quotient = floor_div(a, b);
      if (!quotient) fail_overflow(rt, op);
      return *quotient;
    }
    case BinaryOp::kModulo:
      return floor_mod(a, b);
  }
  return result;
}

double real_arithmetic(BinaryOp op, double a, double b) {
  switch (op) {
    case BinaryOp::kAdd:
      return a + b;
    case BinaryOp::kSubtract:
      return a - b;
    case BinaryOp::kMultiply:
      return a * b;
    case BinaryOp::kDivide:
      return a / b;
    case BinaryOp::kFloorDivide:
      return floor_div(a, b);
    case BinaryOp::kModulo:
      return floor_mod(a, b);
  }
  return 0.0;
}

Value arithmetic(Runtime& rt, BinaryOp op, const Number& a, const Number& b) {
  const bool divides =
      op == BinaryOp::kDivide || op == BinaryOp::kFloorDivide || op == BinaryOp::kModulo;
  if (divides && b.real == 0) rt.fail("division by zero");
  if (!a.is_real && !b.is_real) return integer_arithmetic(rt, op, a.integer, b.integer);
  return real_arithmetic(op, a.real, b.real);
}

uint64_t repeats(const Number& times) {
  return times.integer < 0 ? 0 : static_cast<uint64_t>(times.integer);
}

Value repeat_text(Runtime& rt, const MarkedText& text, const Number& times) {
  const uint64_t n = text.empty() ? 0 : repeats(times);
  if (n > rt.limits().memory_bytes) rt.hold(n);  // keeps the product below from wrapping
  rt.hold(n * text.memory_bytes());
  rt.visit_items(n);
  rt.scan_bytes(n * text.size());
  MarkedText out;
  for (uint64_t i = 0; i < n; ++i) out.append(text);
  return rt.held_text(std::move(out));
}

Value repeat_items(Runtime& rt, const Sequence& sequence, const Number& times) {
  const uint64_t n = sequence.items.empty() ? 0 : repeats(times);
  if (n > rt.limits().memory_bytes) rt.hold(n);
  rt.hold_items(n * sequence.items.size());
  rt.visit_items(n * sequence.items.size());
  std::vector<Value> items;
  for (uint64_t i = 0; i < n; ++i) {
    items.insert(items.end(), sequence.items.begin(), sequence.items.end());
  }
  return rt.sequence(sequence.kind, std::move(items));
}

// `a * b` where one is text or a list and the other an integer, in either order; false where it is
// not so.
bool try_repeat(Runtime& rt, const Value& what, const Value& times, Value* out) {
  Number n;
  if (!as_number(times, &n) || n.is_real) return false;
  if (const MarkedText* text = as_text(what)) {
    *out = repeat_text(rt, *text, n);
    return true;
  }
  const Sequence* sequence = as_cell<Sequence>(what);
  if (!is_list_or_tuple(sequence)) return false;
  *out = repeat_items(rt, *sequence, n);
  return true;
}

bool try_join(Runtime& rt, const Value& left, const Value& right, Value* out) {
  const MarkedText* left_text = as_text(left);
  const MarkedText* right_text = as_text(right);
  if (left_text && right_text) {
    rt.scan_bytes(left_text->size() + right_text->size());
    rt.hold(left_text->memory_bytes() + right_text->memory_bytes());
    MarkedText joined = *left_text;
    joined.append(*right_text);
    *out = rt.held_text(std::move(joined));
    return true;
  }
  const Sequence* a = as_cell<Sequence>(left);
  const Sequence* b = as_cell<Sequence>(right);
  if (!is_list_or_tuple(a) || !is_list_or_tuple(b) || a->kind != b->kind) return false;
  rt.visit_items(a->items.size() + b->items.size());
  std::vector<Value> items = a->items;
  items.insert(items.end(), b->items.begin(), b->items.end());
  *out = rt.sequence(a->kind, std::move(items));
  return true;
}

bool is_equal_items(Runtime& rt, const std::vector<Value>& a, const std::vector<Value>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!is_equal(rt, a[i], b[i])) return false;
  }
  return true;
}

bool is_equal_mapping(Runtime& rt, const Mapping& a, Mapping& b) {
  if (a.items.size() != b.items.size()) return false;
  for (const auto& [key, value] : a.items) {
    const Value* other = find_key(rt, b, key);
    if (!other || !is_equal(rt, value, *other)) return false;
  }
  return true;
}

int order_of_texts(Runtime& rt, const MarkedText& a, const MarkedText& b) {
  rt.scan_bytes(std::min(a.size(), b.size()));
  return a.bytes().compare(b.bytes());  // the order of UTF-8 bytes is that of code points
}

bool contains_item(Runtime& rt, const std::vector<Value>& items, const Value& wanted) {
  rt.visit_items(items.size());
  return std::any_of(items.begin(), items.end(),
                     [&](const Value& item) { return is_equal(rt, item, wanted); });
}

}  // namespace

void require_defined(Runtime& rt, const Value& value) {
  const Undefined* undefined = std::get_if<Undefined>(&value);
  if (!undefined) return;
  if (undefined->name) rt.fail(fmt::format("'{}' is undefined", undefined->name->bytes()));
  rt.fail("a value is undefined");
}

Value apply_binary(Runtime& rt, BinaryOp op, const Value& left, const Value& right) {
  require_defined(rt, left);
  require_defined(rt, right);
  Number a;
  Number b;
  if (as_number(left, &a) && as_number(right, &b)) return arithmetic(rt, op, a, b);
  Value out;
  if (op == BinaryOp::kAdd && try_join(rt, left, right, &out)) return out;
  if (op == BinaryOp::kMultiply &&
      (try_repeat(rt, left, right, &out) || try_repeat(rt, right, left, &out))) {
    return out;
  }
  fail_operands(rt, symbol_of(op), left, right);
}

Value apply_negate(Runtime& rt, const Value& operand) {
  require_defined(rt, operand);
  Number number;
  if (!as_number(operand, &number))
    rt.fail(fmt::format("'-' does not apply to {}", type_name(operand)));
  if (number.is_real) return -number.real;
  return integer_arithmetic(rt, BinaryOp::kSubtract, 0, number.integer);
}

bool is_equal(Runtime& rt, const Value& left, const Value& right) {
  const Runtime::Frame frame(rt);
  rt.step();
  Number a;
  Number b;
  if (as_number(left, &a)) {
    if (!as_number(right, &b)) return false;
    return a.is_real || b.is_real ? a.real == b.real : a.integer == b.integer;
  }
  if (left.index() != right.index()) return false;
  if (const MarkedText* text = as_text(left)) {
    const MarkedText* other = as_text(right);
    if (text->size() == other->size()) rt.scan_bytes(text->size());
    return text->bytes() == other->bytes();
  }
  if (const Sequence* sequence = as_cell<Sequence>(left)) {
    const Sequence* other = as_cell<Sequence>(right);
    if (sequence == other) return true;
    if (!is_list_or_tuple(sequence) || sequence->kind != other->kind) return false;
    return is_equal_items(rt, sequence->items, other->items);
  }
  if (const Mapping* mapping = as_cell<Mapping>(left)) {
    return mapping == as_cell<Mapping>(right) ||
           is_equal_mapping(rt, *mapping, *as_cell<Mapping>(right));
  }
  if (is<Object*>(left)) return as_cell<Object>(left) == as_cell<Object>(right);
  return true;  // two of Undefined or None
}

int compare_order(Runtime& rt, const Value& left, const Value& right) {
  const Runtime::Frame frame(rt);
  rt.step();
  require_defined(rt, left);
  require_defined(rt, right);
  Number a;
  Number b;
  if (as_number(left, &a) && as_number(right, &b)) {
    if (a.is_real || b.is_real) return a.real < b.real ? -1 : a.real > b.real ? 1 : 0;
    return a.integer < b.integer ? -1 : a.integer > b.integer ? 1 : 0;
  }
  if (as_text(left) && as_text(right)) return order_of_texts(rt, *as_text(left), *as_text(right));
  const Sequence* x = as_cell<Sequence>(left);
  const Sequence* y = as_cell<Sequence>(right);
  if (!is_list_or_tuple(x) || !is_list_or_tuple(y) || x->kind != y->kind) {
    fail_operands(rt, "<", left, right);
  }
  for (size_t i = 0; i < std::min(x->items.size(), y->items.size()); ++i) {
    if (is_equal(rt, x->items[i], y->items[i])) continue;
    return compare_order(rt, x->items[i], y->items[i]);
  }
  return x->items.size() < y->items.size() ? -1 : x->items.size() > y->items.size() ? 1 : 0;
}

bool contains(Runtime& rt, const Value& container, const Value& wanted) {
  if (const MarkedText* text = as_text(container)) {
    const MarkedText* part = as_text(wanted);
    if (!part)
      rt.fail(fmt::format("'in' a text wants text on its left, found {}", type_name(wanted)));
    rt.scan_bytes(text->size());
    return find_text(text->bytes(), part->bytes()) != kNotFound;
  }
  if (Mapping* mapping = as_cell<Mapping>(container)) return find_key(rt, *mapping, wanted);
  if (const Sequence* sequence = as_cell<Sequence>(container)) {
    return contains_item(rt, sequence->items, wanted);
  }
  Cursor cursor(rt, container);
  Value item;
  while (cursor.next(&item)) {
    if (is_equal(rt, item, wanted)) return true;
  }
  return false;
}

bool apply_compare(Runtime& rt, CompareOp op, const Value& left, const Value& right) {
  const auto has_nan = [&] {
    Number a;
    Number b;
    return as_number(left, &a) && as_number(right, &b) &&
           (std::isnan(a.real) || std::isnan(b.real));
  };
  switch (op) {
    case CompareOp::kEqual:
      return is_equal(rt, left, right);
    case CompareOp::kNotEqual:
      return !is_equal(rt, left, right);
    case CompareOp::kIn:
      return contains(rt, right, left);
    case CompareOp::kNotIn:
      return !contains(rt, right, left);
    case CompareOp::kLess:
      return compare_order(rt, left, right) < 0 && !has_nan();
    case CompareOp::kLessEqual:
      return compare_order(rt, left, right) <= 0 && !has_nan();
    case CompareOp::kGreater:
      return compare_order(rt, left, right) > 0 && !has_nan();
    case CompareOp::kGreaterEqual:
      return compare_order(rt, left, right) >= 0 && !has_nan();
  }
  return false;
}

}  // namespace strata::engine::jinja
