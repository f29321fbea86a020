// engine/template/text_search.h - finding, splitting and replacing inside marked texts, in time
// linear in the text.
#pragma once

#include <limits>
#include <string_view>

#include "engine/template/runtime.h"

namespace strata::engine::jinja {

inline constexpr size_t kNotFound = std::string_view::npos;
inline constexpr int64_t kNoLimit = -1;  // of splits and replacements

size_t find_text(std::string_view text, std::string_view wanted, size_t from = 0);
size_t find_last_text(std::string_view text, std::string_view wanted);
/// How often `wanted` occurs without overlap; an empty one occurs before, between and after all
/// code points.
uint64_t count_text(std::string_view text, std::string_view wanted);

/// Every result below is of text values; marks of user text are kept.
Value replace_text(Runtime& rt, const Text& text, const MarkedText& from, const MarkedText& to,
                   int64_t limit);
std::vector<Value> split_text(Runtime& rt, const Text& text, std::string_view separator,
                              int64_t limit);
std::vector<Value> split_text_from_right(Runtime& rt, const Text& text, std::string_view separator,
                                         int64_t limit);
std::vector<Value> split_white_space(Runtime& rt, const Text& text, int64_t limit);
std::vector<Value> split_white_space_from_right(Runtime& rt, const Text& text, int64_t limit);
std::vector<Value> split_lines(Runtime& rt, const Text& text, bool keep_ends);

}  // namespace strata::engine::jinja
