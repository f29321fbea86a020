// engine/text/utf8.h - UTF-8: where a text is ill-formed, and one code point at a time.
// Source: the Unicode Standard, table 3-7 (well-formed byte sequences) and section 3.9, "U+FFFD
// Substitution of Maximal Subparts", which is also what the WHATWG
// Encoding Standard's decoder does.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace strata::engine {

enum class Utf8Status : uint8_t {
  kWhole,       // a code point
  kBroken,      // no text that follows makes these bytes a code point
  kUnfinished,  // the text ends inside a code point that is well-formed so far
};

/// The start of a text: a code point, or the maximal subpart of an ill-formed sequence that stands
/// for one U+FFFD.
struct Utf8Step {
  Utf8Status status = Utf8Status::kWhole;
  uint32_t bytes = 0;       // 1 to 4
  uint32_t code_point = 0;  // where whole
};

/// `text` is not empty.
Utf8Step utf8_step(std::string_view text);

/// The offset of the first byte that belongs to no well-formed sequence; text.size() where the
/// whole text is well-formed.
uint64_t utf8_fault(std::string_view text);

/// Appends a code point's bytes. `code_point` is at most 0x10FFFF and no surrogate.
void append_utf8(uint32_t code_point, std::string& out);

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace strata::engine
