// engine/template/text_trim.h - white space at the ends of texts: taken away, or added up to a
// width.
#pragma once

#include <string_view>

#include "engine/template/runtime.h"

namespace strata::engine::jinja {

/// Without white space, or the code points of `chars` where not null, at the chosen ends.
Value trim_text(Runtime& rt, const Text& text, const MarkedText* chars, bool left, bool right);
/// `text` padded with `fill` (one code point) to `width` code points; alignment '<', '>' or '^' (of
/// an odd rest, centring puts one more where Python's str.center puts it).
Value pad_text(Runtime& rt, const Text& text, int64_t width, std::string_view fill, char alignment);

}  // namespace strata::engine::jinja
