#include "engine/template/code_points.h"

#include <algorithm>

namespace strata::engine::jinja {
namespace {

bool is_continuation(char c) { return (static_cast<uint8_t>(c) & 0xc0) == 0x80; }

bool in(uint32_t c, uint32_t first, uint32_t last) { return c >= first && c <= last; }

// Ranges in which capitals and small letters alternate, capitals at even code points.
bool is_even_pair(uint32_t c) {
  return in(c, 0x100, 0x12f) || in(c, 0x132, 0x137) || in(c, 0x14a, 0x177) || in(c, 0x3d8, 0x3ef) ||
         in(c, 0x460, 0x481) || in(c, 0x48a, 0x4bf) || in(c, 0x4d0, 0x52f) ||
         in(c, 0x1e00, 0x1e95) || in(c, 0x1ea0, 0x1eff);
}
// The same with capitals at odd code points.
bool is_odd_pair(uint32_t c) {
  return in(c, 0x139, 0x148) || in(c, 0x179, 0x17e) || in(c, 0x4c1, 0x4ce);
}

uint32_t upper_of(uint32_t c) {
  if (in(c, 'a', 'z')) return c - 32;
  if (c < 0x80) return c;
  if (c == 0xb5) return 0x39c;
  if (c == 0xff) return 0x178;
  if (in(c, 0xe0, 0xfe) && c != 0xf7) return c - 32;
  if (c == 0x131) return 'I';
  if (c == 0x17f) return 'S';
  if (is_even_pair(c)) return c & ~1u;
  if (is_odd_pair(c)) return (c & 1u) ? c : c - 1;
  if (c == 0x3ac) return 0x386;
  if (in(c, 0x3ad, 0x3af)) return c - 37;
  if (c == 0x3c2) return 0x3a3;
  if (in(c, 0x3b1, 0x3cb)) return c - 32;
  if (c == 0x3cc) return 0x38c;
  if (in(c, 0x3cd, 0x3ce)) return c - 63;
  if (in(c, 0x430, 0x44f)) return c - 32;
  if (in(c, 0x450, 0x45f)) return c - 80;
  if (c == 0x4cf) return 0x4c0;
  if (in(c, 0x561, 0x586)) return c - 48;
  return c;
}

uint32_t lower_of(uint32_t c) {
  if (in(c, 'A', 'Z')) return c + 32;
  if (c < 0x80) return c;
  if (in(c, 0xc0, 0xde) && c != 0xd7) return c + 32;
  if (c == 0x130) return c;  // becomes two code points, see append_lower
  if (c == 0x178) return 0xff;
  if (is_even_pair(c)) return c | 1u;
  if (is_odd_pair(c)) return (c & 1u) ? c + 1 : c;
  if (c == 0x386) return 0x3ac;
  if (in(c, 0x388, 0x38a)) return c + 37;
  if (c == 0x38c) return 0x3cc;
  if (in(c, 0x38e, 0x38f)) return c + 63;
  if (in(c, 0x391, 0x3ab) && c != 0x3a2) return c + 32;
  if (in(c, 0x410, 0x42f)) return c + 32;
  if (in(c, 0x400, 0x40f)) return c + 80;
  if (c == 0x4c0) return 0x4cf;
  if (in(c, 0x531, 0x556)) return c + 48;
  return c;
}

void append_upper(std::string& out, uint32_t c, bool as_title) {
  if (c == 0xdf) {  // sharp s has no capital of one code point
    out += as_title ? "Ss" : "SS";
  } else {
    append_utf8(out, upper_of(c));
  }
}

void append_lower(std::string& out, uint32_t c) {
  if (c == 0x130) {
    out += "i\xcc\x87";
  } else {
    append_utf8(out, lower_of(c));
  }
}

enum class Case : uint8_t { kUpper, kTitle, kLower };

// Maps each code point as `choose` says; bytes that are not UTF-8 are copied.
template <class Choose>
std::string map_case(std::string_view text, Choose choose) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    const Case wanted = choose(c.value);
    if (!c.is_valid) {
      out += text[at];
    } else if (wanted == Case::kLower) {
      append_lower(out, c.value);
    } else {
      append_upper(out, c.value, wanted == Case::kTitle);
    }
    at += c.bytes;
  }
  return out;
}

}  // namespace

CodePoint code_point_at(std::string_view text, size_t at) {
  const auto lead = static_cast<uint8_t>(text[at]);
  if (lead < 0x80) return {lead, 1, true};
  const size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  const CodePoint broken{kNotACodePoint, 1, false};
  if (lead < 0xc2 || lead > 0xf4 || text.size() - at < bytes) return broken;
  uint32_t value = lead & (0x7fu >> bytes);
  for (size_t i = 1; i < bytes; ++i) {
    if (!is_continuation(text[at + i])) return broken;
    value = value << 6 | (static_cast<uint8_t>(text[at + i]) & 0x3fu);
  }
  if ((bytes == 3 && value < 0x800) || (bytes == 4 && value < 0x10000)) return broken;
  if (in(value, 0xd800, 0xdfff) || value > 0x10ffff) return broken;
  return {value, bytes, true};
}

size_t code_point_before(std::string_view text, size_t end) {
  for (size_t bytes = 1; bytes <= 4 && bytes <= end; ++bytes) {
    if (is_continuation(text[end - bytes])) continue;
    return code_point_at(text.substr(0, end), end - bytes).bytes == bytes ? end - bytes : end - 1;
  }
  return end - 1;
}

void append_utf8(std::string& out, uint32_t c) {
  const auto tail = [&](uint32_t shift) { out += static_cast<char>(0x80 | (c >> shift & 0x3f)); };
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xc0 | c >> 6);
    tail(0);
  } else if (c < 0x10000) {
    out += static_cast<char>(0xe0 | c >> 12);
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xf0 | c >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
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

bool is_digit(uint32_t c) { return in(c, '0', '9'); }
bool is_upper(uint32_t c) { return lower_of(c) != c || c == 0x130; }
bool is_lower(uint32_t c) { return upper_of(c) != c || c == 0xdf; }

bool is_letter(uint32_t c) {
  if (c < 0x80) return in(c | 32, 'a', 'z');
  if (c < 0xc0) return c == 0xaa || c == 0xb5 || c == 0xba;
  if (c < 0x250) return c != 0xd7 && c != 0xf7;
  return !is_space(c) && !in(c, 0x2010, 0x2bff) && !in(c, 0x3001, 0x3004) &&
         !in(c, 0x3008, 0x3020) && !in(c, 0xe000, 0xf8ff) && !in(c, 0xfe00, 0xfe6f) &&
         !in(c, 0xff01, 0xff20) && c < 0xe0000 && !in(c, 0x1f000, 0x1faff);
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
std::string swap_case(std::string_view text) {
  return map_case(text, [](uint32_t c) { return is_upper(c) ? Case::kLower : Case::kUpper; });
}
std::string capitalize(std::string_view text) {
  bool is_first = true;
  return map_case(text, [&](uint32_t) {
    const Case wanted = is_first ? Case::kTitle : Case::kLower;
    is_first = false;
    return wanted;
  });
}
std::string title_case(std::string_view text) {
  bool after_letter = false;
  return map_case(text, [&](uint32_t c) {
    const Case wanted = after_letter ? Case::kLower : Case::kTitle;
    after_letter = is_upper(c) || is_lower(c);
    return wanted;
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
