#include "engine/template/text_trim.h"

#include <algorithm>

#include "engine/template/code_points.h"

namespace strata::engine::jinja {

Value trim_text(Runtime& rt, const Text& text, const MarkedText* chars, bool left, bool right) {
  // Every byte of the text may be looked for in all of `chars`; both sizes are below 2^32 by the
  // budgets.
  rt.scan_bytes(text->size() * (chars ? chars->size() + 1 : 1));
  const std::string_view wanted = chars ? std::string_view(chars->bytes()) : std::string_view();
  const ByteRange kept = trim_bounds(text->bytes(), chars ? &wanted : nullptr, left, right);
  return rt.slice(text, kept.begin, kept.end);
}

Value pad_text(Runtime& rt, const Text& text, int64_t width, std::string_view fill,
               char alignment) {
  rt.scan_bytes(text->size());
  const auto length = static_cast<int64_t>(count_code_points(text->bytes()));
  if (width <= length) return text;
  if (count_code_points(fill) != 1) rt.fail("a text is padded with exactly one character");
  const auto padding = static_cast<uint64_t>(width - length);
  rt.hold(padding);
  rt.hold(padding * (fill.size() - 1));  // padding is within the memory budget here
  uint64_t before = 0;
  if (alignment == '>') before = padding;
  if (alignment == '^') before = padding / 2 + (padding & static_cast<uint64_t>(width) & 1);
  MarkedText out;
  for (uint64_t i = 0; i < before; ++i) out.append(fill);
  out.append(*text);
  for (uint64_t i = before; i < padding; ++i) out.append(fill);
  return rt.text(std::move(out));
}

}  // namespace strata::engine::jinja
