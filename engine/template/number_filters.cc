#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/template/filters.h"
#include "engine/template/number_text.h"
#include "engine/template/operators.h"

namespace strata::engine::jinja {
namespace {

std::optional<int64_t> truncated(double real) {
  if (!(std::fabs(real) < 9.2e18)) return std::nullopt;
  return static_cast<int64_t>(real);
}

Value to_integer(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "int", arguments, {"default", "base"});
  require_defined(rt, input);
  const Value fallback = p.get_or(0, int64_t{0});
  Number number;
  if (as_number(input, &number)) {
    if (!number.is_real) return number.integer;
    const auto whole = truncated(number.real);
    return whole ? Value(*whole) : fallback;
  }
  const MarkedText* text = as_text(input);
  if (!text) return fallback;
  rt.scan_bytes(text->size());
  if (const auto integer = parse_integer(
          text->bytes(), static_cast<int>(std::clamp<int64_t>(p.integer(1, 10), 0, 36)))) {
    return *integer;
  }
  const auto real = parse_real(text->bytes());
  const auto whole = real ? truncated(*real) : std::nullopt;
  return whole ? Value(*whole) : fallback;
}

Value to_real(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "float", arguments, {"default"});
  require_defined(rt, input);
  Number number;
  if (as_number(input, &number)) return number.real;
  const MarkedText* text = as_text(input);
  if (text) rt.scan_bytes(text->size());
  const auto real = text ? parse_real(text->bytes()) : std::nullopt;
  return real ? Value(*real) : p.get_or(0, 0.0);
}

Value round_number(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "round", arguments, {"precision", "method"});
  require_defined(rt, input);
  Number number;
  if (!as_number(input, &number))
    rt.fail(fmt::format("round wants a number, found {}", type_name(input)));
  const auto precision = static_cast<int>(std::clamp<int64_t>(p.integer(0, 0), -400, 400));
  const MarkedText* method = p.text(1);
  if (!method || method->bytes() == "common") {
    if (number.is_real) return round_real(number.real, precision);
    if (precision >= 0) return number.integer;
    const auto whole = truncated(round_real(number.real, precision));
    if (!whole) rt.fail("round: the result does not fit 64 bits");
    return *whole;
  }
  const double unit = std::pow(10.0, precision);
  if (method->bytes() == "ceil") return std::ceil(number.real * unit) / unit;
  if (method->bytes() == "floor") return std::floor(number.real * unit) / unit;
  rt.fail("round: the method is none of common, ceil, floor");
}

Value absolute(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "abs", arguments, {});
  require_defined(rt, input);
  Number number;
  if (!as_number(input, &number))
    rt.fail(fmt::format("abs wants a number, found {}", type_name(input)));
  if (number.is_real) return std::fabs(number.real);
  return number.integer < 0 ? apply_negate(rt, number.integer) : Value(number.integer);
}

}  // namespace

const FilterTable& number_filters() {
  static const FilterTable kFilters = {
      {"int", to_integer},
      {"float", to_real},
      {"round", round_number},
      {"abs", absolute},
  };
  return kFilters;
}

}  // namespace strata::engine::jinja
