// engine/template/operators.h - arithmetic, comparison and membership, with Python's meaning on
// 64-bit integers.
#pragma once

#include <cstdint>

#include "engine/template/runtime.h"

namespace strata::engine::jinja {

enum class BinaryOp : uint8_t { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo };
enum class CompareOp : uint8_t {
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn
};

/// Errors: kTemplate (operand types, division by zero, a result beyond 64 bits,
/// an undefined operand).
Value apply_binary(Runtime& rt, BinaryOp op, const Value& left, const Value& right);
Value apply_negate(Runtime& rt, const Value& operand);
bool apply_compare(Runtime& rt, CompareOp op, const Value& left, const Value& right);

bool is_equal(Runtime& rt, const Value& left, const Value& right);
/// Less than 0, 0 or more than 0. Errors: kTemplate where the two have no order.
int compare_order(Runtime& rt, const Value& left, const Value& right);
bool contains(Runtime& rt, const Value& container, const Value& wanted);

/// Fails, naming what is undefined, where `value` is.
void require_defined(Runtime& rt, const Value& value);

}  // namespace strata::engine::jinja
