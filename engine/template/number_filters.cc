#include <fmt/format.h>

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
  const Parameters p(rt, "int", arguments, {"default"});
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
  if (const auto integer = parse_integer(text->bytes())) return *integer;
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
      {"abs", absolute},
  };
  return kFilters;
}

}  // namespace strata::engine::jinja
