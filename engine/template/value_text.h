// engine/template/value_text.h - values as text: as `{{ }}` prints them, quoted inside containers,
// and as JSON.
#pragma once

#include <optional>
#include <string>

#include "engine/template/runtime.h"

namespace strata::engine::jinja {

/// What `{{ value }}` prints. Errors: kTemplate (budgets: a container may hold itself).
MarkedText print_text(Runtime& rt, const Value& value);
/// How `value` shows inside a printed container: texts are quoted.
MarkedText quoted_text(Runtime& rt, const Value& value);
/// What `{{ value }}` prints as a shared text; a text value is passed on.
Text shared_text(Runtime& rt, const Value& value);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  // one level; none = everything on one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool is_user = false;  // whether the parts above come from the conversation
};
/// Errors: kTemplate where something has no JSON form.
MarkedText json_text(Runtime& rt, const Value& value, const JsonStyle& style);

}  // namespace strata::engine::jinja
