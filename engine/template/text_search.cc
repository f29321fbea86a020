#include "engine/template/text_search.h"

#include <string.h>

#include <algorithm>

#include "engine/template/code_points.h"

namespace strata::engine::jinja {

// memmem is linear in the worst case, which std::string_view::find is not: a template could ask for
// a long needle that makes every start nearly match. Short ones are found without it, because a
// sanitizer looks at the whole rest of the text in every call of it.
size_t find_text(std::string_view text, std::string_view wanted, size_t from) {
  constexpr size_t kShort = 16;
  if (from > text.size()) return kNotFound;
  if (wanted.size() <= kShort) return text.find(wanted, from);
  const void* at = memmem(text.data() + from, text.size() - from, wanted.data(), wanted.size());
  return at ? static_cast<size_t>(static_cast<const char*>(at) - text.data()) : kNotFound;
}

uint64_t count_text(std::string_view text, std::string_view wanted) {
  if (wanted.empty()) return count_code_points(text) + 1;
  uint64_t count = 0;
  for (size_t at = find_text(text, wanted); at != kNotFound;
       at = find_text(text, wanted, at + wanted.size())) {
    ++count;
  }
  return count;
}

Value trim_text(Runtime& rt, const Text& text, const MarkedText* chars, bool left, bool right) {
  // Every byte of the text may be looked for in all of `chars`; both sizes are below 2^32 by the
  // budgets.
  rt.scan_bytes(text->size() * (chars ? chars->size() + 1 : 1));
  const std::string_view wanted = chars ? std::string_view(chars->bytes()) : std::string_view();
  const ByteRange kept = trim_bounds(text->bytes(), chars ? &wanted : nullptr, left, right);
  return rt.slice(text, kept.begin, kept.end);
}

Value replace_text(Runtime& rt, const Text& text, const MarkedText& from, const MarkedText& to,
                   int64_t limit) {
  rt.scan_bytes(text->size());
  const auto max = limit < 0 ? std::numeric_limits<uint64_t>::max() : static_cast<uint64_t>(limit);
  const uint64_t n = std::min(count_text(text->bytes(), from.bytes()), max);
  if (n == 0) return text;
  rt.visit_items(n);
  // n <= text bytes + 1 and both sizes are budgeted: no overflow.
  rt.hold(text->memory_bytes() + n * to.memory_bytes());
  rt.scan_bytes(n * to.size());
  MarkedText out;
  size_t done = 0;
  size_t search = 0;
  for (uint64_t i = 0; i < n; ++i) {
    const size_t at = from.empty() ? search : find_text(text->bytes(), from.bytes(), search);
    out.append(*text, done, at);
    out.append(to);
    done = at + from.size();
    search = done;
    if (from.empty() && at < text->size()) search += code_point_at(text->bytes(), at).bytes;
  }
  out.append(*text, done, text->size());
  return rt.held_text(std::move(out));
}

std::vector<Value> split_text(Runtime& rt, const Text& text, std::string_view separator,
                              int64_t limit) {
  if (separator.empty()) rt.fail("split: the separator is empty");
  rt.scan_bytes(text->size());
  std::vector<Value> parts;
  size_t done = 0;
  while (limit < 0 || parts.size() < static_cast<uint64_t>(limit)) {
    const size_t at = find_text(text->bytes(), separator, done);
    if (at == kNotFound) break;
    rt.visit_items(1);
    parts.push_back(rt.slice(text, done, at));
    done = at + separator.size();
  }
  parts.push_back(rt.slice(text, done, text->size()));
  return parts;
}

std::vector<Value> split_text_from_right(Runtime& rt, const Text& text, std::string_view separator,
                                         int64_t limit) {
  if (separator.empty()) rt.fail("rsplit: the separator is empty");
  rt.scan_bytes(text->size());
  const std::string backward(text->bytes().rbegin(), text->bytes().rend());
  const std::string wanted(separator.rbegin(), separator.rend());
  std::vector<Value> parts;
  size_t done = 0;  // counted from the end of the text
  while (limit < 0 || parts.size() < static_cast<uint64_t>(limit)) {
    const size_t at = find_text(backward, wanted, done);
    if (at == kNotFound) break;
    parts.push_back(rt.slice(text, text->size() - at, text->size() - done));
    done = at + wanted.size();
  }
  parts.push_back(rt.slice(text, 0, text->size() - done));
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<Value> split_white_space(Runtime& rt, const Text& text, int64_t limit) {
  rt.scan_bytes(text->size());
  const std::string& bytes = text->bytes();
  std::vector<Value> parts;
  size_t at = trim_bounds(bytes, nullptr, true, false).begin;
  while (at < bytes.size()) {
    if (limit >= 0 && parts.size() >= static_cast<uint64_t>(limit)) {
      parts.push_back(rt.slice(text, at, bytes.size()));
      break;
    }
    const size_t begin = at;
    while (at < bytes.size() && !is_space(code_point_at(bytes, at).value)) {
      at += code_point_at(bytes, at).bytes;
    }
    parts.push_back(rt.slice(text, begin, at));
    at += trim_bounds(std::string_view(bytes).substr(at), nullptr, true, false).begin;
  }
  return parts;
}

std::vector<Value> split_lines(Runtime& rt, const Text& text, bool keep_ends) {
  rt.scan_bytes(text->size());
  const std::string& bytes = text->bytes();
  std::vector<Value> lines;
  size_t begin = 0;
  for (size_t at = 0; at < bytes.size();) {
    const CodePoint c = code_point_at(bytes, at);
    if (!c.is_valid || !is_line_break(c.value)) {
      at += c.bytes;
      continue;
    }
    const bool is_pair = c.value == '\r' && at + 1 < bytes.size() && bytes[at + 1] == '\n';
    const size_t next = at + (is_pair ? 2 : c.bytes);
    lines.push_back(rt.slice(text, begin, keep_ends ? next : at));
    begin = at = next;
  }
  if (begin < bytes.size()) lines.push_back(rt.slice(text, begin, bytes.size()));
  return lines;
}

Value mapped_text(Runtime& rt, const MarkedText& text, std::string (*map)(std::string_view)) {
  rt.scan_bytes(text.size());
  rt.hold(2 * text.size());  // the longest result: a sharp s becomes SS, of as many bytes
  return rt.held_text(MarkedText(map(text.bytes()), text.has_user_text()));
}

void Joined::add(const MarkedText& text) {
  rt_.hold(text.memory_bytes() + separator_.memory_bytes());
  rt_.scan_bytes(text.size() + separator_.size());
  if (!is_first_) out_.append(separator_);
  out_.append(text);
  is_first_ = false;
}

}  // namespace strata::engine::jinja
