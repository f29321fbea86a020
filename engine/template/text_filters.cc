#include <fmt/format.h>

#include <algorithm>

#include "engine/template/access.h"
#include "engine/template/code_points.h"
#include "engine/template/filters.h"
#include "engine/template/operators.h"
#include "engine/template/text_search.h"
#include "engine/template/value_text.h"

namespace strata::engine::jinja {
namespace {

// Words begin at the start and behind white space, hyphens and opening brackets, which is not what
// "a".title() does.
std::string title_words(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    const auto is_break = [&](size_t i) {
      return is_space(code_point_at(text, i).value) ||
             std::string_view("-({[<").find(text[i]) != std::string_view::npos;
    };
    const bool breaks = is_break(at);
    while (end < text.size() && is_break(end) == breaks) end += code_point_at(text, end).bytes;
    const std::string_view word = text.substr(at, end - at);
    out += breaks ? std::string(word) : capitalize(word);
    at = end;
  }
  return out;
}

template <std::string (*kMap)(std::string_view)>
Value map_case(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "a filter of case", arguments, {});
  return mapped_text(rt, *shared_text(rt, input), kMap);
}

Value trim(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "trim", arguments, {"chars"});
  return trim_text(rt, shared_text(rt, input), p.text(0), true, true);
}

Value string(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "string", arguments, {});
  return shared_text(rt, input);
}

Value replace(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "replace", arguments, {"old", "new", "count"}, 2);
  const Text from = shared_text(rt, p.get(0));
  const Text to = shared_text(rt, p.get(1));
  return replace_text(rt, shared_text(rt, input), *from, *to, p.integer(2, kNoLimit));
}

Value indent(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "indent", arguments, {"width", "first", "blank"});
  const Text text = shared_text(rt, input);
  Value margin = p.get(0);
  if (!as_text(margin)) {
    margin = apply_binary(rt, BinaryOp::kMultiply, rt.text(std::string(" ")), p.integer(0, 4));
  }
  const bool indents_first = p.flag(1, false);
  const bool indents_blank = p.flag(2, false);
  std::vector<Value> lines = split_lines(rt, text, false);
  // A line break at the end opens one more, empty line.
  const std::string& bytes = text->bytes();
  if (bytes.empty() ||
      is_line_break(code_point_at(bytes, code_point_before(bytes, bytes.size())).value)) {
    lines.push_back(rt.text(std::string()));
  }
  MarkedText out;
  for (size_t i = 0; i < lines.size(); ++i) {
    const MarkedText& line = *as_text(lines[i]);
    rt.hold(as_text(margin)->memory_bytes() + line.memory_bytes() + 1);
    if (i > 0) out.append("\n");
    const bool is_indented = i == 0 ? indents_first : indents_blank || !line.empty();
    if (is_indented) out.append(*as_text(margin));
    out.append(line);
  }
  return rt.text(std::move(out));
}

Value to_json(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "tojson", arguments,
                     {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = p.flag(0, false);
  style.sort_keys = p.flag(3, false);
  if (const MarkedText* text = as_text(p.get(1))) {
    style.indent = text->bytes();
    style.is_user |= text->has_user_text();
  } else if (p.has(1) && !is<None>(p.get(1))) {
    style.indent =
        std::string(static_cast<size_t>(std::clamp<int64_t>(p.integer(1, 0), 0, 1000)), ' ');
  }
  if (style.indent) style.item_separator = ",";
  if (p.has(2) && !is<None>(p.get(2))) {
    const std::vector<Value> separators = collect_items(rt, p.get(2));
    if (separators.size() != 2 || !as_text(separators[0]) || !as_text(separators[1])) {
      rt.fail("tojson: separators wants two texts");
    }
    style.is_user |=
        as_text(separators[0])->has_user_text() || as_text(separators[1])->has_user_text();
    style.item_separator = as_text(separators[0])->bytes();
    style.key_separator = as_text(separators[1])->bytes();
  }
  return rt.text(json_text(rt, input, style));
}

}  // namespace

const FilterTable& text_filters() {
  static const FilterTable kFilters = {
      {"trim", trim},
      {"upper", map_case<to_upper>},
      {"lower", map_case<to_lower>},
      {"title", map_case<title_words>},
      {"capitalize", map_case<capitalize>},
      {"string", string},
      {"safe", string},
      {"replace", replace},
      {"indent", indent},
      {"tojson", to_json},
  };
  return kFilters;
}

}  // namespace strata::engine::jinja
