#include "engine/template/string_literal.h"

#include <charconv>
#include <optional>

#include "engine/template/code_points.h"

namespace strata::engine::jinja {
namespace {

std::optional<uint32_t> number_at(std::string_view body, size_t at, size_t digits, int base) {
  if (body.size() - at < digits) return std::nullopt;
  uint32_t value = 0;
  const char* end = body.data() + at + digits;
  const auto result = std::from_chars(body.data() + at, end, value, base);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

char simple_escape(char c) {
  switch (c) {
    case 'n':
      return '\n';
    case 't':
      return '\t';
    case 'r':
      return '\r';
    case 'a':
      return '\a';
    case 'b':
      return '\b';
    case 'f':
      return '\f';
    case 'v':
      return '\v';
    case '\\':
      return '\\';
    case '\'':
      return '\'';
    case '"':
      return '"';
    default:
      return '\0';
  }
}

bool is_surrogate(uint32_t c) { return c >= 0xd800 && c <= 0xdfff; }

// Appends the code point whose digits begin at `at`; returns how many bytes behind `at` were used.
size_t append_code_point(std::string& out, std::string_view body, size_t at, size_t digits,
                         uint32_t c) {
  size_t used = digits;
  if (c >= 0xd800 && c <= 0xdbff && body.substr(at + digits, 2) == "\\u") {
    const auto low = number_at(body, at + digits + 2, 4, 16);
    if (low && *low >= 0xdc00 && *low <= 0xdfff) {
      c = 0x10000 + ((c - 0xd800) << 10) + (*low - 0xdc00);
      used += 6;
    }
  }
  append_utf8(out, is_surrogate(c) || c > 0x10ffff ? 0xfffd : c);
  return used;
}

size_t octal_digits(std::string_view body, size_t at) {
  size_t n = 0;
  while (n < 3 && at + n < body.size() && body[at + n] >= '0' && body[at + n] <= '7') ++n;
  return n;
}

}  // namespace

std::string decode_string_literal(std::string_view body) {
  std::string out;
  out.reserve(body.size());
  for (size_t at = 0; at < body.size();) {
    if (body[at] != '\\' || at + 1 >= body.size()) {
      out += body[at++];
      continue;
    }
    const char kind = body[at + 1];
    const size_t digits_at = at + 2;
    const size_t n_digits = kind == 'x' ? 2 : kind == 'u' ? 4 : kind == 'U' ? 8 : 0;
    const auto code = n_digits ? number_at(body, digits_at, n_digits, 16) : std::nullopt;
    if (kind == '\n') {
      at += 2;
    } else if (const char simple = simple_escape(kind)) {
      out += simple;
      at += 2;
    } else if (code) {
      at = digits_at + append_code_point(out, body, digits_at, n_digits, *code);
    } else if (const size_t n_octal = octal_digits(body, at + 1); n_octal > 0) {
      append_utf8(out, number_at(body, at + 1, n_octal, 8).value_or(0));
      at += 1 + n_octal;
    } else {
      out += body[at++];
    }
  }
  return out;
}

}  // namespace strata::engine::jinja
