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
/// `precision` digits after the point, correctly rounded (ties to even).
std::string fixed_text(double value, int precision);
std::string scientific_text(double value, int precision);  // 1.50e+00
/// `precision` significant digits without trailing zeros, as "%g".
std::string general_text(double value, int precision);

/// An integer with optional sign and underscores between digits, in base 2 to 36, white space
/// around it allowed; base 0 or an own base's prefix (0x, 0o, 0b) is understood. Nothing where the
/// text is no such number or does not fit 64 bits.
std::optional<int64_t> parse_integer(std::string_view text, int base = 10);
std::optional<double> parse_real(std::string_view text);

/// `value` rounded to `digits` decimal places (may be negative), ties to even in its exact binary
/// value.
double round_real(double value, int digits);

/// Quotient rounded towards minus infinity and the remainder with the divisor's sign. The divisor
/// is not 0.
int64_t floor_mod(int64_t a, int64_t b);
double floor_mod(double a, double b);
/// Nothing where the quotient does not fit (the least integer by -1).
std::optional<int64_t> floor_div(int64_t a, int64_t b);
double floor_div(double a, double b);

}  // namespace strata::engine::jinja
