#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "engine/template/access.h"
#include "engine/template/code_points.h"
#include "engine/template/methods.h"
#include "engine/template/number_text.h"
#include "engine/template/text_search.h"
#include "engine/template/value_text.h"

namespace strata::engine::jinja {
namespace {

const Text& self_text(const Value& self) { return std::get<Text>(self); }

template <bool kLeft, bool kRight>
Value strip(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "strip", arguments, {"chars"});
  return trim_text(rt, self_text(self), p.text(0), kLeft, kRight);
}

Value split(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "split", arguments, {"sep", "maxsplit"});
  const int64_t limit = p.integer(1, kNoLimit);
  const MarkedText* separator = p.text(0);
  return rt.list(separator ? split_text(rt, self_text(self), separator->bytes(), limit)
                           : split_white_space(rt, self_text(self), limit));
}
Value split_right(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "rsplit", arguments, {"sep", "maxsplit"});
  const int64_t limit = p.integer(1, kNoLimit);
  const MarkedText* separator = p.text(0);
  if (!separator && limit >= 0) rt.fail("rsplit wants a separator where it has a limit");
  return rt.list(separator ? split_text_from_right(rt, self_text(self), separator->bytes(), limit)
                           : split_white_space(rt, self_text(self), kNoLimit));
}
Value split_into_lines(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "splitlines", arguments, {"keepends"});
  return rt.list(split_lines(rt, self_text(self), p.flag(0, false)));
}

// The wanted text of find, count and their like.
const MarkedText& wanted_text(Runtime& rt, const Parameters& p, std::string_view name) {
  const MarkedText* wanted = p.text(0);
  if (!wanted) rt.fail(fmt::format("{} wants text, found none", name));
  return *wanted;
}

template <bool kAtEnd>
Value has_affix(Runtime& rt, const Value& self, const Arguments& arguments) {
  const std::string_view name = kAtEnd ? "endswith" : "startswith";
  const Parameters p(rt, name, arguments, {"affix"}, 1);
  const std::string& text = self_text(self)->bytes();
  const auto matches = [&](const Value& affix) {
    const MarkedText* part = as_text(affix);
    if (!part)
      rt.fail(fmt::format("{} wants text or a tuple of texts, found {}", name, type_name(affix)));
    rt.scan_bytes(part->size());
    return kAtEnd ? text.ends_with(part->bytes()) : text.starts_with(part->bytes());
  };
  const Sequence* choices = as_sequence(p.get(0), SequenceKind::kTuple);
  if (!choices) return matches(p.get(0));
  rt.visit_items(choices->items.size());
  return std::ranges::any_of(choices->items, matches);
}
template <bool kAtEnd>
Value without_affix(Runtime& rt, const Value& self, const Arguments& arguments) {
  const std::string_view name = kAtEnd ? "removesuffix" : "removeprefix";
  const Parameters p(rt, name, arguments, {"affix"}, 1);
  const Text& text = self_text(self);
  const std::string& part = wanted_text(rt, p, name).bytes();
  if (kAtEnd && text->bytes().ends_with(part)) return rt.slice(text, 0, text->size() - part.size());
  if (!kAtEnd && text->bytes().starts_with(part)) return rt.slice(text, part.size(), text->size());
  return self;
}

Value find(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "find", arguments, {"sub"}, 1);
  const std::string_view text = self_text(self)->bytes();
  rt.scan_bytes(text.size());
  const size_t at = find_text(text, wanted_text(rt, p, "find").bytes());
  if (at == kNotFound) return int64_t{-1};
  return static_cast<int64_t>(count_code_points(text.substr(0, at)));
}
Value count(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "count", arguments, {"sub"}, 1);
  const Text& text = self_text(self);
  rt.scan_bytes(text->size());
  return static_cast<int64_t>(count_text(text->bytes(), wanted_text(rt, p, "count").bytes()));
}

Value replace_method(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "replace", arguments, {"old", "new", "count"}, 2);
  const MarkedText* from = p.text(0);
  const MarkedText* to = p.text(1);
  if (!from || !to) rt.fail("replace wants two texts");
  return replace_text(rt, self_text(self), *from, *to, p.integer(2, kNoLimit));
}

Value join_method(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "join", arguments, {"iterable"}, 1);
  Joined joined(rt, *self_text(self));
  Cursor cursor(rt, p.get(0));
  Value item;
  while (cursor.next(&item)) {
    const MarkedText* text = as_text(item);
    if (!text) rt.fail(fmt::format("join wants texts, found {}", type_name(item)));
    joined.add(*text);
  }
  return joined.take();
}

// "{} {0} {name}".format(...): what `field` between the braces stands for.
Value format_argument(Runtime& rt, std::string_view field, const Arguments& arguments,
                      size_t* next) {
  const auto given = parse_integer(field);
  const size_t index = field.empty()          ? (*next)++
                       : given && *given >= 0 ? static_cast<size_t>(*given)
                                              : kNotFound;
  if (index < arguments.positional.size()) return arguments.positional[index];
  for (const auto& [name, value] : arguments.named) {
    if (name == field) return value;
  }
  rt.fail(fmt::format("format: no argument for '{{{}}}' (a field is empty, a number or a name)",
                      field.substr(0, 64)));
}

Value format(Runtime& rt, const Value& self, const Arguments& arguments) {
  const MarkedText& layout = *self_text(self);
  const std::string& bytes = layout.bytes();
  rt.scan_bytes(bytes.size());
  rt.hold(layout.memory_bytes());
  MarkedText out;
  size_t next = 0;
  for (size_t at = 0; at < bytes.size();) {
    const size_t brace = std::min(bytes.find_first_of("{}", at), bytes.size());
    out.append(layout, at, brace);
    if (brace == bytes.size()) break;
    rt.step();
    const size_t end = bytes.find('}', brace);
    if (bytes.compare(brace + 1, 1, bytes, brace, 1) == 0) {  // a doubled one stands for itself
      out.append(layout, brace, brace + 1);
      at = brace + 2;
      continue;
    }
    if (bytes[brace] == '}' || end == std::string::npos) rt.fail("format: a brace has no partner");
    const auto field = std::string_view(bytes).substr(brace + 1, end - brace - 1);
    const Text text = shared_text(rt, format_argument(rt, field, arguments, &next));
    rt.hold(text->memory_bytes());
    rt.scan_bytes(text->size());
    out.append(*text);
    at = end + 1;
  }
  return rt.held_text(std::move(out));
}

template <std::string (*kMap)(std::string_view)>
Value map_case_method(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "a change of case", arguments, {});
  return mapped_text(rt, *self_text(self), kMap);
}

Value is_digits(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "isdigit", arguments, {});
  const std::string& text = self_text(self)->bytes();
  rt.scan_bytes(text.size());
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
}

}  // namespace

MethodFn find_text_method(std::string_view name) {
  static const std::unordered_map<std::string_view, MethodFn> kMethods = {
      {"strip", strip<true, true>},
      {"lstrip", strip<true, false>},
      {"rstrip", strip<false, true>},
      {"split", split},
      {"rsplit", split_right},
      {"splitlines", split_into_lines},
      {"startswith", has_affix<false>},
      {"endswith", has_affix<true>},
      {"removeprefix", without_affix<false>},
      {"removesuffix", without_affix<true>},
      {"find", find},
      {"count", count},
      {"replace", replace_method},
      {"join", join_method},
      {"format", format},
      {"upper", map_case_method<to_upper>},
      {"lower", map_case_method<to_lower>},
      {"title", map_case_method<title_case>},
      {"capitalize", map_case_method<capitalize>},
      {"isdigit", is_digits},
  };
  const auto found = kMethods.find(name);
  return found == kMethods.end() ? nullptr : found->second;
}

}  // namespace strata::engine::jinja
