// engine/template/code_points.h - text as code points: the template language counts, slices and
// trims by them. Bytes that are not UTF-8 count as one code point each and pass through unchanged.
// Case mapping covers Latin, Greek, Cyrillic and Armenian letters; other scripts with case are left
// as they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/template/marked_text.h"

namespace strata::engine::jinja {

inline constexpr uint32_t kNotACodePoint = 0xffffffff;

struct CodePoint {
  uint32_t value = 0;  // kNotACodePoint where the byte is not UTF-8
  size_t bytes = 1;
  bool is_valid = false;
};
/// The code point at `at` < text.size().
CodePoint code_point_at(std::string_view text, size_t at);
/// Where the code point that ends at `end` > 0 begins.
size_t code_point_before(std::string_view text, size_t end);
void append_utf8(std::string& out, uint32_t code_point);

size_t count_code_points(std::string_view text);
/// The byte offset of code point `index`, or text.size() where there are fewer.
size_t offset_of_code_point(std::string_view text, size_t index);

bool is_space(uint32_t code_point);
bool is_line_break(uint32_t code_point);
bool is_digit(uint32_t code_point);
bool is_letter(uint32_t code_point);  // of the scripts named above; beyond them every code point
                                      // from U+0250 that is no space
bool is_upper(uint32_t code_point);
bool is_lower(uint32_t code_point);
/// Whether a quoted form shows it as it is.
bool is_printable(uint32_t code_point);

std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string swap_case(std::string_view text);
std::string capitalize(std::string_view text);
/// Upper case after anything that is not a letter, lower case after a letter.
std::string title_case(std::string_view text);

/// What is left of a text without white space, or without the code points in `chars`, at its ends.
ByteRange trim_bounds(std::string_view text, const std::string_view* chars, bool left, bool right);

}  // namespace strata::engine::jinja
