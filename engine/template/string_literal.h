// engine/template/string_literal.h - backslash escapes of quoted texts in a template.
#pragma once

#include <string>
#include <string_view>

namespace strata::engine::jinja {

/// What stands between the quotes, with \n \t \r \a \b \f \v \\ \' \" \xhh \uhhhh \Uhhhhhhhh
/// decoded and an escaped line break dropped; other escapes stay as they are.
/// A surrogate becomes U+FFFD.
std::string decode_string_literal(std::string_view body);

}  // namespace strata::engine::jinja
