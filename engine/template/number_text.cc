#include "engine/template/number_text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "engine/template/code_points.h"

namespace strata::engine::jinja {
namespace {

// A double in fixed notation has up to 309 digits before the point; 1100 after it show every one
// exactly.
constexpr int kMaxPrecision = 1100;

std::string format(double value, std::chars_format style, int precision) {
  std::array<char, kMaxPrecision + 400> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, style,
                                 std::clamp(precision, 0, kMaxPrecision));
  return {buffer.data(), end.ptr};
}

std::string_view trimmed(std::string_view text) {
  const ByteRange kept = trim_bounds(text, nullptr, true, true);
  return text.substr(kept.begin, kept.end - kept.begin);
}

// Drops underscores that stand between digits; nothing where one stands elsewhere.
std::optional<std::string> without_underscores(std::string_view text) {
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      digits += text[i];
    } else if (i == 0 || i + 1 == text.size() || text[i - 1] == '_') {
      return std::nullopt;
    }
  }
  return digits;
}

int base_of_prefix(std::string_view text) {
  if (text.size() < 2 || text[0] != '0') return 0;
  switch (text[1] | 32) {
    case 'x':
      return 16;
    case 'o':
      return 8;
    case 'b':
      return 2;
    default:
      return 0;
  }
}

}  // namespace

std::string real_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::array<char, 64> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                 std::chars_format::scientific);
  const std::string shortest(buffer.data(), end.ptr);
  const size_t e = shortest.find('e');
  const int exponent = std::stoi(shortest.substr(e + 1));
  if (exponent < -4 || exponent >= 16) return shortest;
  const size_t mantissa_begin = shortest[0] == '-' ? 1 : 0;
  std::string digits = shortest.substr(mantissa_begin, e - mantissa_begin);
  std::erase(digits, '.');
  std::string out = mantissa_begin ? "-" : "";
  if (exponent < 0)
    return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const auto n_whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= n_whole) digits.resize(n_whole + 1, '0');
  return out + digits.substr(0, n_whole) + "." + digits.substr(n_whole);
}

std::string fixed_text(double value, int precision) {
  return format(value, std::chars_format::fixed, precision);
}
std::string scientific_text(double value, int precision) {
  return format(value, std::chars_format::scientific, precision);
}
std::string general_text(double value, int precision) {
  return format(value, std::chars_format::general, std::max(precision, 1));
}

std::optional<int64_t> parse_integer(std::string_view text, int base) {
  text = trimmed(text);
  const bool is_negative = !text.empty() && text[0] == '-';
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  const int prefix = base_of_prefix(text);
  if (prefix != 0 && (base == 0 || base == prefix)) {
    text.remove_prefix(2);
    base = prefix;
    if (!text.empty() && text[0] == '_') text.remove_prefix(1);
  }
  if (base == 0) base = 10;
  if (base < 2 || base > 36) return std::nullopt;
  const auto digits = without_underscores(text);
  if (!digits || digits->empty() || (*digits)[0] == '-') return std::nullopt;
  const std::string with_sign = (is_negative ? "-" : "") + *digits;
  int64_t value = 0;
  const char* end = with_sign.data() + with_sign.size();
  const auto result = std::from_chars(with_sign.data(), end, value, base);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

std::optional<double> parse_real(std::string_view text) {
  const auto plain = without_underscores(trimmed(text));
  if (!plain) return std::nullopt;
  std::string_view digits = *plain;
  if (!digits.empty() && digits[0] == '+') digits.remove_prefix(1);
  if (digits.empty() || (plain->size() > digits.size() && digits[0] == '-')) return std::nullopt;
  double value = 0;
  const char* end = digits.data() + digits.size();
  const auto result = std::from_chars(digits.data(), end, value);
  if (result.ptr != end || digits.find('(') != std::string_view::npos) return std::nullopt;
  if (result.ec == std::errc::result_out_of_range) {
    // Too small or too large: the exponent's sign says which.
    const bool is_small =
        digits.find("e-") != std::string_view::npos || digits.find("E-") != std::string_view::npos;
    const double magnitude = is_small ? 0.0 : std::numeric_limits<double>::infinity();
    return digits[0] == '-' ? -magnitude : magnitude;
  }
  if (result.ec != std::errc()) return std::nullopt;
  return value;
}

double round_real(double value, int digits) {
  if (!std::isfinite(value)) return value;
  digits = std::clamp(digits, -400, 400);
  if (digits < 0) {
    const double unit = std::pow(10.0, -digits);
    if (!std::isfinite(unit)) return 0.0 * value;
    return std::nearbyint(value / unit) * unit;
  }
  return parse_real(fixed_text(value, digits)).value_or(value);
}

int64_t floor_mod(int64_t a, int64_t b) {
  if (b == -1) return 0;
  const int64_t remainder = a % b;
  return remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder;
}

double floor_mod(double a, double b) {
  const double remainder = std::fmod(a, b);
  if (remainder == 0) return std::copysign(0.0, b);
  return (remainder < 0) != (b < 0) ? remainder + b : remainder;
}

std::optional<int64_t> floor_div(int64_t a, int64_t b) {
  if (b == -1) {
    if (a == std::numeric_limits<int64_t>::min()) return std::nullopt;
    return -a;
  }
  const int64_t quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

double floor_div(double a, double b) {
  const double remainder = floor_mod(a, b);
  return std::nearbyint((a - remainder) / b);
}

}  // namespace strata::engine::jinja
