#include "engine/template/code_points.h"

namespace strata::engine::jinja {
namespace {

bool in(uint32_t c, uint32_t first, uint32_t last) { return c >= first && c <= last; }

// Ranges in which capitals and small letters alternate, capitals at even code points.
bool is_even_pair(uint32_t c) {
  return in(c, 0x100, 0x12f) || in(c, 0x132, 0x137) || in(c, 0x14a, 0x177) || in(c, 0x460, 0x481) ||
         in(c, 0x48a, 0x4bf) || in(c, 0x1e00, 0x1e95) || in(c, 0x1ea0, 0x1eff);
}
// The same with capitals at odd code points.
bool is_odd_pair(uint32_t c) { return in(c, 0x139, 0x148) || in(c, 0x179, 0x17e); }

uint32_t upper_of(uint32_t c) {
  if (in(c, 'a', 'z')) return c - 32;
  if (c < 0x80) return c;
  if (c == 0xb5) return 0x39c;
  if (c == 0xff) return 0x178;
  if (in(c, 0xe0, 0xfe) && c != 0xf7) return c - 32;
  if (is_even_pair(c)) return c & ~1u;
  if (is_odd_pair(c)) return (c & 1u) ? c : c - 1;
  if (c == 0x3ac) return 0x386;
  if (in(c, 0x3ad, 0x3af)) return c - 37;
  if (c == 0x3c2) return 0x3a3;
  if (in(c, 0x3b1, 0x3cb)) return c - 32;
  if (in(c, 0x430, 0x44f)) return c - 32;
  if (in(c, 0x450, 0x45f)) return c - 80;
  return c;
}

uint32_t lower_of(uint32_t c) {
  if (in(c, 'A', 'Z')) return c + 32;
  if (c < 0x80) return c;
  if (in(c, 0xc0, 0xde) && c != 0xd7) return c + 32;
  if (c == 0x178) return 0xff;
  if (is_even_pair(c)) return c | 1u;
  if (is_odd_pair(c)) return (c & 1u) ? c + 1 : c;
  if (c == 0x386) return 0x3ac;
  if (in(c, 0x388, 0x38a)) return c + 37;
  if (in(c, 0x391, 0x3ab) && c != 0x3a2) return c + 32;
  if (in(c, 0x410, 0x42f)) return c + 32;
  if (in(c, 0x400, 0x40f)) return c + 80;
  return c;
}

bool has_case(uint32_t c) { return c == 0xdf || upper_of(c) != c || lower_of(c) != c; }

void append_upper(std::string& out, uint32_t c, bool as_title) {
  if (c == 0xdf) {  // sharp s has no capital of one code point
    out += as_title ? "Ss" : "SS";
  } else {
    append_utf8(upper_of(c), out);
  }
}

// Maps each code point to upper (as in a title or not) or lower case, as `choose` says; bytes that
// are not UTF-8 are copied.
enum class Case : uint8_t { kUpper, kTitle, kLower };
template <class Choose>
std::string map_case(std::string_view text, Choose choose) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    const Case wanted = choose(c.value);
    if (!c.is_valid) {
      out += text.substr(at, c.bytes);
    } else if (wanted == Case::kLower) {
      append_utf8(lower_of(c.value), out);
    } else {
      append_upper(out, c.value, wanted == Case::kTitle);
    }
    at += c.bytes;
  }
  return out;
}

}  // namespace

size_t code_point_before(std::string_view text, size_t end) {
  for (size_t bytes = 1; bytes <= 4 && bytes <= end; ++bytes) {
    const bool is_continuation = (static_cast<uint8_t>(text[end - bytes]) & 0xc0) == 0x80;
    if (is_continuation) continue;
    return utf8_step(text.substr(end - bytes, bytes)).bytes == bytes ? end - bytes : end - 1;
  }
  return end - 1;
}

size_t count_code_points(std::string_view text) {
  size_t count = 0;
  for (size_t at = 0; at < text.size(); at += code_point_at(text, at).bytes) ++count;
  return count;
}

size_t offset_of_code_point(std::string_view text, size_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) at += code_point_at(text, at).bytes;
  return at;
}

bool is_space(uint32_t c) {
  return in(c, 0x9, 0xd) || in(c, 0x1c, 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         in(c, 0x2000, 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool is_line_break(uint32_t c) {
  return in(c, 0xa, 0xd) || in(c, 0x1c, 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool is_printable(uint32_t c) {
  if (c < 0x7f) return c >= 0x20;
  if (c <= 0xa0 || c == 0xad) return false;
  const bool is_format = in(c, 0x200b, 0x200f) || in(c, 0x202a, 0x202e) || in(c, 0x2060, 0x206f) ||
                         c == 0xfeff || in(c, 0xfff9, 0xfffb);
  const bool is_private = in(c, 0xe000, 0xf8ff) || c >= 0xe0000;
  return !is_space(c) && !is_format && !is_private && (c & 0xfffe) != 0xfffe;
}

std::string to_upper(std::string_view text) {
  return map_case(text, [](uint32_t) { return Case::kUpper; });
}
std::string to_lower(std::string_view text) {
  return map_case(text, [](uint32_t) { return Case::kLower; });
}
std::string capitalize(std::string_view text) {
  bool is_first = true;
  return map_case(
      text, [&](uint32_t) { return std::exchange(is_first, false) ? Case::kTitle : Case::kLower; });
}
std::string title_case(std::string_view text) {
  bool after_letter = false;
  return map_case(text, [&](uint32_t c) {
    return std::exchange(after_letter, has_case(c)) ? Case::kLower : Case::kTitle;
  });
}

ByteRange trim_bounds(std::string_view text, const std::string_view* chars, bool left, bool right) {
  const auto is_trimmed = [&](size_t at, size_t bytes) {
    if (chars) return chars->find(text.substr(at, bytes)) != std::string_view::npos;
    return is_space(code_point_at(text, at).value);
  };
  ByteRange kept{0, text.size()};
  while (left && kept.begin < kept.end) {
    const size_t bytes = code_point_at(text, kept.begin).bytes;
    if (!is_trimmed(kept.begin, bytes)) break;
    kept.begin += bytes;
  }
  while (right && kept.end > kept.begin) {
    const size_t begin = code_point_before(text, kept.end);
    if (begin < kept.begin || !is_trimmed(begin, kept.end - begin)) break;
    kept.end = begin;
  }
  return kept;
}

}  // namespace strata::engine::jinja
