// engine/template/text_search.h - trimming, finding, splitting, replacing and joining marked texts,
// in time linear in the text.
#pragma once

#include <limits>
#include <string_view>

#include "engine/template/runtime.h"

namespace strata::engine::jinja {

inline constexpr size_t kNotFound = std::string_view::npos;
inline constexpr int64_t kNoLimit = -1;  // of splits and replacements

size_t find_text(std::string_view text, std::string_view wanted, size_t from = 0);
/// How often `wanted` occurs without overlap; an empty one occurs before, between and after all
/// code points.
uint64_t count_text(std::string_view text, std::string_view wanted);

/// Every result below is of text values; marks of user text are kept.
/// Without white space, or the code points of `chars` where not null, at the chosen ends.
Value trim_text(Runtime& rt, const Text& text, const MarkedText* chars, bool left, bool right);
Value replace_text(Runtime& rt, const Text& text, const MarkedText& from, const MarkedText& to,
                   int64_t limit);
std::vector<Value> split_text(Runtime& rt, const Text& text, std::string_view separator,
                              int64_t limit);
std::vector<Value> split_text_from_right(Runtime& rt, const Text& text, std::string_view separator,
                                         int64_t limit);
std::vector<Value> split_white_space(Runtime& rt, const Text& text, int64_t limit);
std::vector<Value> split_lines(Runtime& rt, const Text& text, bool keep_ends);
/// A changed text whose length may differ: it is user text as a whole where any of it was.
Value mapped_text(Runtime& rt, const MarkedText& text, std::string (*map)(std::string_view));

/// Texts put together with a separator between them.
class Joined {
 public:
  Joined(Runtime& rt, const MarkedText& separator) : rt_(rt), separator_(separator) {}
  void add(const MarkedText& text);
  Value take() { return rt_.held_text(std::move(out_)); }

 private:
  Runtime& rt_;
  const MarkedText& separator_;
  MarkedText out_;
  bool is_first_ = true;
};

}  // namespace strata::engine::jinja
