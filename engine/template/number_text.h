// engine/template/number_text.h - numbers as text and back, independent of the locale.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace strata::engine::jinja {

/// The shortest text that reads back as the same value, as Python prints it: 1.0, 1e-05, 1e+16,
/// inf, nan.
std::string real_text(double value);
/// Decimal, with an optional sign, white space around it allowed. Nothing where the text is no such
/// number or, of an integer, does not fit 64 bits.
std::optional<int64_t> parse_integer(std::string_view text);
std::optional<double> parse_real(std::string_view text);

/// Quotient rounded towards minus infinity and the remainder with the divisor's sign. The divisor
/// is not 0.
int64_t floor_mod(int64_t a, int64_t b);
double floor_mod(double a, double b);
/// Nothing where the quotient does not fit (the least integer by -1).
std::optional<int64_t> floor_div(int64_t a, int64_t b);
double floor_div(double a, double b);

}  // namespace strata::engine::jinja
