#include "engine/template/string_literal.h"

#include <charconv>
#include <optional>

#include "engine/text/utf8.h"

namespace strata::engine::jinja {
namespace {

std::optional<uint32_t> number_at(std::string_view body, size_t at, size_t digits) {
  if (body.size() - at < digits) return std::nullopt;
  uint32_t value = 0;
  const char* end = body.data() + at + digits;
  const auto result = std::from_chars(body.data() + at, end, value, 16);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

// What a backslash and `c` stand for, in the order of the letters.
constexpr std::string_view kEscapes = "ntrabfv\\'\"";
constexpr std::string_view kEscaped = "\n\t\r\a\b\f\v\\'\"";

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
    const size_t simple = kEscapes.find(kind);
    const size_t n_digits = kind == 'x' ? 2 : kind == 'u' ? 4 : kind == 'U' ? 8 : 0;
    if (kind == '\n') {
      at += 2;
    } else if (simple != std::string_view::npos) {
      out += kEscaped[simple];
      at += 2;
    } else if (const auto code = n_digits ? number_at(body, at + 2, n_digits) : std::nullopt) {
      const bool is_surrogate = *code >= 0xd800 && *code <= 0xdfff;
      append_utf8(is_surrogate || *code > 0x10ffff ? 0xfffd : *code, out);
      at += 2 + n_digits;
    } else {
      out += body[at++];
    }
  }
  return out;
}

}  // namespace strata::engine::jinja
