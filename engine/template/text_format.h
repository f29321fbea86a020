// engine/template/text_format.h - "%s: %d" % (a, b) and "{}: {:>5}".format(a, b).
#pragma once

#include "engine/template/runtime.h"

namespace strata::engine::jinja {

/// Conversions s r d i u x X o e E f F g G c %, flags - + 0 space #, width and precision (also *),
/// %(key)s with a dict. The result is user text as a whole where the format or an argument holds
/// user text. Errors: kTemplate.
Value format_percent(Runtime& rt, const MarkedText& format, const Value& arguments);

/// Fields {} {0} {name} {0.attribute} {0[key]}, !r and !s, and a format after the colon (fill,
/// alignment, sign, #, 0, width, comma, precision, type). Errors: kTemplate.
Value format_braces(Runtime& rt, const MarkedText& format, const Arguments& arguments);

}  // namespace strata::engine::jinja
