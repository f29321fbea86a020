// engine/template/number_format.h - one number or text laid out by a format such as "+08.2f",
// shared by both styles.
#pragma once

#include <string>
#include <string_view>

#include "engine/template/runtime.h"

namespace strata::engine::jinja {

struct LayoutSpec {
  std::string fill = " ";
  char alignment = 0;  // '<' '>' '^' '=', 0 = the value's own: numbers right, text left
  char sign = '-';     // '-' only where negative, '+' always, ' ' a space for positive ones
  bool alternate = false;
  int64_t width = 0;
  char grouping = 0;  // ',' or '_' between thousands, 0 none
  int precision = -1;
  char type = 0;
};

/// Errors: kTemplate (a type that is not one of b c d e E f F g G n o x X %, or not for this
/// number).
Value layout_number(Runtime& rt, const Number& number, LayoutSpec spec);
Value layout_text(Runtime& rt, const Text& text, const LayoutSpec& spec);

}  // namespace strata::engine::jinja
