#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "engine/template/access.h"
#include "engine/template/code_points.h"
#include "engine/template/methods.h"
#include "engine/template/text_format.h"
#include "engine/template/text_search.h"
#include "engine/template/text_trim.h"

namespace strata::engine::jinja {
namespace {

const Text& self_text(const Value& self) { return std::get<Text>(self); }

Value strip(Runtime& rt, const Value& self, const Arguments& arguments, std::string_view name,
            bool left, bool right) {
  const Parameters p(rt, name, arguments, {"chars"});
  return trim_text(rt, self_text(self), p.text(0), left, right);
}
Value strip_both(Runtime& rt, const Value& self, const Arguments& a) {
  return strip(rt, self, a, "strip", true, true);
}
Value strip_left(Runtime& rt, const Value& self, const Arguments& a) {
  return strip(rt, self, a, "lstrip", true, false);
}
Value strip_right(Runtime& rt, const Value& self, const Arguments& a) {
  return strip(rt, self, a, "rstrip", false, true);
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
  return rt.list(separator ? split_text_from_right(rt, self_text(self), separator->bytes(), limit)
                           : split_white_space_from_right(rt, self_text(self), limit));
}
Value split_into_lines(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "splitlines", arguments, {"keepends"});
  return rt.list(split_lines(rt, self_text(self), p.flag(0, false)));
}

// The part [start, end) of a text that startswith, endswith, find and count look at, as a byte
// range; nothing where start lies behind the end.
std::optional<ByteRange> window_of(Runtime& rt, const Text& text, const Parameters& p,
                                   size_t start_at) {
  if (!p.has(start_at) && !p.has(start_at + 1)) return ByteRange{0, text->size()};
  const auto n = static_cast<int64_t>(*length_of(rt, text));
  const auto clamp = [&](int64_t i) { return std::max<int64_t>(i < 0 ? i + n : i, 0); };
  const int64_t start = clamp(std::max(p.integer(start_at, 0), -n - 1));
  const int64_t end = std::min(clamp(std::max(p.integer(start_at + 1, n), -n - 1)), n);
  if (start > end) return std::nullopt;
  return ByteRange{offset_of_code_point(text->bytes(), static_cast<size_t>(start)),
                   offset_of_code_point(text->bytes(), static_cast<size_t>(end))};
}

template <class Matches>
Value affix_test(Runtime& rt, const Value& self, const Arguments& arguments, std::string_view name,
                 Matches matches) {
  const Parameters p(rt, name, arguments, {"affix", "start", "end"}, 1);
  const Text& text = self_text(self);
  const auto window = window_of(rt, text, p, 1);
  if (!window) return false;
  const auto view =
      std::string_view(text->bytes()).substr(window->begin, window->end - window->begin);
  const auto test = [&](const Value& affix) {
    const MarkedText* part = as_text(affix);
    if (!part)
      rt.fail(fmt::format("{} wants text or a tuple of texts, found {}", name, type_name(affix)));
    rt.scan_bytes(part->size());
    return matches(view, std::string_view(part->bytes()));
  };
  if (const Sequence* choices = as_sequence(p.get(0), SequenceKind::kTuple)) {
    rt.visit_items(choices->items.size());
    return std::any_of(choices->items.begin(), choices->items.end(), test);
  }
  return test(p.get(0));
}
Value starts_with(Runtime& rt, const Value& self, const Arguments& a) {
  return affix_test(rt, self, a, "startswith",
                    [](auto text, auto part) { return text.starts_with(part); });
}
Value ends_with(Runtime& rt, const Value& self, const Arguments& a) {
  return affix_test(rt, self, a, "endswith",
                    [](auto text, auto part) { return text.ends_with(part); });
}

int64_t find_index(Runtime& rt, const Value& self, const Arguments& arguments,
                   std::string_view name, bool from_right) {
  const Parameters p(rt, name, arguments, {"sub", "start", "end"}, 1);
  const Text& text = self_text(self);
  rt.scan_bytes(text->size());
  const MarkedText* wanted = p.text(0);
  if (!wanted) rt.fail(fmt::format("{} wants text, found none", name));
  const auto window = window_of(rt, text, p, 1);
  if (!window) return -1;
  const auto view =
      std::string_view(text->bytes()).substr(window->begin, window->end - window->begin);
  const size_t at =
      from_right ? find_last_text(view, wanted->bytes()) : find_text(view, wanted->bytes());
  if (at == kNotFound) return -1;
  return static_cast<int64_t>(
      count_code_points(std::string_view(text->bytes()).substr(0, window->begin + at)));
}
Value find_first(Runtime& rt, const Value& self, const Arguments& a) {
  return find_index(rt, self, a, "find", false);
}
Value find_last(Runtime& rt, const Value& self, const Arguments& a) {
  return find_index(rt, self, a, "rfind", true);
}
Value index_of(Runtime& rt, const Value& self, const Arguments& a) {
  const int64_t at = find_index(rt, self, a, "index", false);
  if (at < 0) rt.fail("index: the text does not contain it");
  return at;
}
Value count(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "count", arguments, {"sub", "start", "end"}, 1);
  const Text& text = self_text(self);
  rt.scan_bytes(text->size());
  const MarkedText* wanted = p.text(0);
  if (!wanted) rt.fail("count wants text, found none");
  const auto window = window_of(rt, text, p, 1);
  if (!window) return int64_t{0};
  const auto view =
      std::string_view(text->bytes()).substr(window->begin, window->end - window->begin);
  return static_cast<int64_t>(count_text(view, wanted->bytes()));
}

Value replace(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "replace", arguments, {"old", "new", "count"}, 2);
  const MarkedText* from = p.text(0);
  const MarkedText* to = p.text(1);
  if (!from || !to) rt.fail("replace wants two texts");
  return replace_text(rt, self_text(self), *from, *to, p.integer(2, kNoLimit));
}

Value remove_prefix(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "removeprefix", arguments, {"prefix"}, 1);
  const Text& text = self_text(self);
  const MarkedText* part = p.text(0);
  const bool has = part && text->bytes().starts_with(part->bytes());
  return has ? rt.slice(text, part->size(), text->size()) : self;
}
Value remove_suffix(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "removesuffix", arguments, {"suffix"}, 1);
  const Text& text = self_text(self);
  const MarkedText* part = p.text(0);
  const bool has = part && text->bytes().ends_with(part->bytes());
  return has ? rt.slice(text, 0, text->size() - part->size()) : self;
}

Value partition_at(Runtime& rt, const Text& text, size_t at, size_t separator_bytes) {
  return rt.tuple({rt.slice(text, 0, at), rt.slice(text, at, at + separator_bytes),
                   rt.slice(text, at + separator_bytes, text->size())});
}
Value partition(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "partition", arguments, {"sep"}, 1);
  const Text& text = self_text(self);
  const MarkedText* separator = p.text(0);
  if (!separator || separator->empty()) rt.fail("partition wants a separator");
  rt.scan_bytes(text->size());
  const size_t at = find_text(text->bytes(), separator->bytes());
  if (at == kNotFound) return partition_at(rt, text, text->size(), 0);
  return partition_at(rt, text, at, separator->size());
}
Value partition_from_right(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "rpartition", arguments, {"sep"}, 1);
  const Text& text = self_text(self);
  const MarkedText* separator = p.text(0);
  if (!separator || separator->empty()) rt.fail("rpartition wants a separator");
  rt.scan_bytes(text->size());
  const size_t at = find_last_text(text->bytes(), separator->bytes());
  if (at == kNotFound) return partition_at(rt, text, 0, 0);
  return partition_at(rt, text, at, separator->size());
}

Value join(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "join", arguments, {"iterable"}, 1);
  MarkedText out;
  bool is_first = true;
  Cursor cursor(rt, p.get(0));
  Value item;
  while (cursor.next(&item)) {
    const MarkedText* text = as_text(item);
    if (!text) rt.fail(fmt::format("join wants texts, found {}", type_name(item)));
    rt.hold(text->memory_bytes() + self_text(self)->memory_bytes());
    if (!is_first) out.append(*self_text(self));
    out.append(*text);
    is_first = false;
  }
  return rt.text(std::move(out));
}

Value format(Runtime& rt, const Value& self, const Arguments& arguments) {
  return format_braces(rt, *self_text(self), arguments);
}

// A change of case keeps the mark only as a whole: lengths may change.
template <std::string (*kMap)(std::string_view)>
Value map_case(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "a change of case", arguments, {});
  const MarkedText& text = *self_text(self);
  rt.scan_bytes(text.size());
  return rt.text(MarkedText(kMap(text.bytes()), text.has_user_text()));
}

template <bool (*kTest)(uint32_t)>
bool all_of(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    if (!c.is_valid || !kTest(c.value)) return false;
    at += c.bytes;
  }
  return !text.empty();
}
template <bool (*kTest)(uint32_t)>
Value every(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "a test of text", arguments, {});
  rt.scan_bytes(self_text(self)->size());
  return all_of<kTest>(self_text(self)->bytes());
}
bool is_alphanumeric(uint32_t c) { return is_digit(c) || is_letter(c); }

Value has_case(Runtime& rt, const Value& self, bool wants_upper) {
  const std::string& text = self_text(self)->bytes();
  rt.scan_bytes(text.size());
  bool has_any = false;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    at += c.bytes;
    if (is_upper(c.value) == is_lower(c.value)) continue;
    if (is_upper(c.value) != wants_upper) return false;
    has_any = true;
  }
  return has_any;
}
Value is_upper_text(Runtime& rt, const Value& self, const Arguments&) {
  return has_case(rt, self, true);
}
Value is_lower_text(Runtime& rt, const Value& self, const Arguments&) {
  return has_case(rt, self, false);
}

Value pad(Runtime& rt, const Value& self, const Arguments& arguments, std::string_view name,
          char alignment) {
  const Parameters p(rt, name, arguments, {"width", "fillchar"}, 1);
  const MarkedText* fill = p.text(1);
  const Value padded =
      pad_text(rt, self_text(self), p.integer(0, 0), fill ? fill->bytes() : " ", alignment);
  if (!fill || !fill->has_user_text()) return padded;
  return rt.text(MarkedText(as_text(padded)->bytes(), true));
}
Value pad_right(Runtime& rt, const Value& self, const Arguments& a) {
  return pad(rt, self, a, "ljust", '<');
}
Value pad_left(Runtime& rt, const Value& self, const Arguments& a) {
  return pad(rt, self, a, "rjust", '>');
}
Value pad_both(Runtime& rt, const Value& self, const Arguments& a) {
  return pad(rt, self, a, "center", '^');
}
Value zero_fill(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "zfill", arguments, {"width"}, 1);
  const Text& text = self_text(self);
  const bool has_sign = !text->empty() && (text->bytes()[0] == '-' || text->bytes()[0] == '+');
  const Value digits = rt.slice(text, has_sign ? 1 : 0, text->size());
  const int64_t width = std::max<int64_t>(p.integer(0, 0), 0) - (has_sign ? 1 : 0);
  const Value padded = pad_text(rt, std::get<Text>(digits), width, "0", '>');
  if (!has_sign) return padded;
  MarkedText out = text->slice(0, 1);
  out.append(*as_text(padded));
  return rt.text(std::move(out));
}

}  // namespace

MethodFn find_text_method(std::string_view name) {
  static const std::unordered_map<std::string_view, MethodFn> kMethods = {
      {"strip", strip_both},
      {"lstrip", strip_left},
      {"rstrip", strip_right},
      {"split", split},
      {"rsplit", split_right},
      {"splitlines", split_into_lines},
      {"startswith", starts_with},
      {"endswith", ends_with},
      {"find", find_first},
      {"rfind", find_last},
      {"index", index_of},
      {"count", count},
      {"replace", replace},
      {"removeprefix", remove_prefix},
      {"removesuffix", remove_suffix},
      {"partition", partition},
      {"rpartition", partition_from_right},
      {"join", join},
      {"format", format},
      {"upper", map_case<to_upper>},
      {"lower", map_case<to_lower>},
      {"casefold", map_case<to_lower>},
      {"swapcase", map_case<swap_case>},
      {"title", map_case<title_case>},
      {"capitalize", map_case<capitalize>},
      {"isdigit", every<is_digit>},
      {"isdecimal", every<is_digit>},
      {"isnumeric", every<is_digit>},
      {"isspace", every<is_space>},
      {"isalpha", every<is_letter>},
      {"isalnum", every<is_alphanumeric>},
      {"isupper", is_upper_text},
      {"islower", is_lower_text},
      {"ljust", pad_right},
      {"rjust", pad_left},
      {"center", pad_both},
      {"zfill", zero_fill},
  };
  const auto found = kMethods.find(name);
  return found == kMethods.end() ? nullptr : found->second;
}

}  // namespace strata::engine::jinja
