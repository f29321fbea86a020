// engine/template/code_points.h - text as code points: the template language counts, slices and
// trims by them. A broken sequence that stands for one U+FFFD counts as one and passes through
// unchanged. Case mapping covers Latin, Greek and Cyrillic letters; other scripts with case are
// left as they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "engine/template/marked_text.h"
#include "engine/text/utf8.h"

namespace strata::engine::jinja {

struct CodePoint {
  uint32_t value = 0xffffffff;  // where valid
  size_t bytes = 1;
  bool is_valid = false;
};
/// The code point at `at` < text.size().
inline CodePoint code_point_at(std::string_view text, size_t at) {
  const auto first = static_cast<uint8_t>(text[at]);
  if (first < 0x80) return {first, 1, true};
  const Utf8Step step = utf8_step(text.substr(at));
  if (step.status != Utf8Status::kWhole) return {.bytes = step.bytes};
  return {step.code_point, step.bytes, true};
}
/// Where the code point that ends at `end` > 0 begins.
size_t code_point_before(std::string_view text, size_t end);

size_t count_code_points(std::string_view text);
/// The byte offset of code point `index`, or text.size() where there are fewer.
size_t offset_of_code_point(std::string_view text, size_t index);

bool is_space(uint32_t code_point);
bool is_line_break(uint32_t code_point);
/// Whether a quoted form shows it as it is.
bool is_printable(uint32_t code_point);

std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string capitalize(std::string_view text);
/// Upper case after anything that is not a letter, lower case after a letter.
std::string title_case(std::string_view text);

/// What is left of a text without white space, or without the code points in `chars`, at its ends.
ByteRange trim_bounds(std::string_view text, const std::string_view* chars, bool left, bool right);

}  // namespace strata::engine::jinja
