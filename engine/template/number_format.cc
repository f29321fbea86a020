#include "engine/template/number_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/template/code_points.h"
#include "engine/template/number_text.h"
#include "engine/template/text_trim.h"

namespace strata::engine::jinja {
namespace {

constexpr int64_t kMaxWidth = 1 << 20;

std::string in_upper_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; });
  return text;
}

std::string grouped(const std::string& digits, char separator, size_t group) {
  const size_t whole = std::min(digits.find_first_not_of("0123456789abcdefABCDEF"), digits.size());
  std::string out;
  for (size_t i = 0; i < whole; ++i) {
    if (i > 0 && (whole - i) % group == 0) out += separator;
    out += digits[i];
  }
  return out + digits.substr(whole);
}

// Digits of the magnitude, without a sign.
std::string integer_digits(uint64_t magnitude, char type) {
  switch (type) {
    case 'b':
      return fmt::format("{:b}", magnitude);
    case 'o':
      return fmt::format("{:o}", magnitude);
    case 'x':
      return fmt::format("{:x}", magnitude);
    case 'X':
      return fmt::format("{:X}", magnitude);
    default:
      return fmt::format("{}", magnitude);
  }
}

std::string real_digits(double magnitude, const LayoutSpec& spec) {
  if (std::isnan(magnitude))
    return spec.type == 'F' || spec.type == 'E' || spec.type == 'G' ? "NAN" : "nan";
  const int precision = spec.precision < 0 ? 6 : spec.precision;
  switch (spec.type) {
    case 'e':
      return scientific_text(magnitude, precision);
    case 'E':
      return in_upper_case(scientific_text(magnitude, precision));
    case 'f':
      return fixed_text(magnitude, precision);
    case 'F':
      return in_upper_case(fixed_text(magnitude, precision));
    case 'g':
      return general_text(magnitude, precision);
    case 'G':
      return in_upper_case(general_text(magnitude, precision));
    case '%':
      return fixed_text(magnitude * 100, precision) + "%";
    default:
      break;
  }
  if (spec.precision < 0) return real_text(magnitude);
  const std::string text = general_text(magnitude, precision);
  const bool looks_whole = text.find_first_not_of("0123456789") == std::string::npos;
  return looks_whole ? text + ".0" : text;
}

bool is_integer_type(char type) {
  return std::string_view("bdoxXn").find(type) != std::string_view::npos;
}
bool is_real_type(char type) {
  return std::string_view("eEfFgG%").find(type) != std::string_view::npos;
}

}  // namespace

Value layout_number(Runtime& rt, const Number& number, LayoutSpec spec) {
  if (spec.type == 'c') {
    if (number.is_real || number.integer < 0 || number.integer > 0x10ffff) {
      rt.fail("'c' wants an integer that is a code point");
    }
    std::string character;
    append_utf8(character, static_cast<uint32_t>(number.integer));
    return layout_text(rt, std::get<Text>(rt.text(character)), spec);
  }
  const bool as_integer = !number.is_real && (spec.type == 0 || is_integer_type(spec.type));
  if (!as_integer && spec.type != 0 && spec.type != 'n' && !is_real_type(spec.type)) {
    rt.fail(fmt::format("'{}' is no format for this number", spec.type));
  }
  const bool is_negative = as_integer ? number.integer < 0 : std::signbit(number.real);
  std::string digits;
  if (as_integer) {
    const auto bits = static_cast<uint64_t>(number.integer);
    digits = integer_digits(is_negative ? ~bits + 1 : bits, spec.type);
  } else {
    digits = real_digits(std::fabs(number.real), spec);
  }
  if (spec.grouping) {
    const bool is_binary =
        as_integer && std::string_view("boxX").find(spec.type) != std::string_view::npos;
    digits = grouped(digits, spec.grouping, is_binary && spec.type != 0 ? 4 : 3);
  }
  std::string head = is_negative ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign);
  if (spec.alternate && as_integer && spec.type != 0 && spec.type != 'd' && spec.type != 'n') {
    head += std::string("0") + spec.type;
  }
  if (spec.alignment == '=') {
    const Value body = rt.text(digits);
    const auto rest = spec.width - static_cast<int64_t>(head.size());
    if (rest > kMaxWidth) rt.fail("a format's width is beyond its limit");
    const Value padded = pad_text(rt, std::get<Text>(body), rest, spec.fill, '>');
    return rt.text(head + as_text(padded)->bytes());
  }
  if (spec.alignment == 0) spec.alignment = '>';
  spec.precision = -1;
  return layout_text(rt, std::get<Text>(rt.text(head + digits)), spec);
}

Value layout_text(Runtime& rt, const Text& text, const LayoutSpec& spec) {
  if (spec.width > kMaxWidth) rt.fail("a format's width is beyond its limit");
  Text kept = text;
  if (spec.precision >= 0) {
    rt.scan_bytes(text->size());
    const size_t end = offset_of_code_point(text->bytes(), static_cast<size_t>(spec.precision));
    kept = std::get<Text>(rt.slice(text, 0, end));
  }
  if (spec.alignment == '^') {
    // A format centres with the odd space on the right, where str.center looks at the width's
    // parity.
    const auto length = static_cast<int64_t>(count_code_points(kept->bytes()));
    const int64_t left = spec.width > length ? (spec.width - length) / 2 : 0;
    const Value half = pad_text(rt, kept, length + left, spec.fill, '>');
    return pad_text(rt, std::get<Text>(half), spec.width, spec.fill, '<');
  }
  return pad_text(rt, kept, spec.width, spec.fill, spec.alignment == '>' ? '>' : '<');
}

}  // namespace strata::engine::jinja
