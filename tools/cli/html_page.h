// tools/cli/html_page.h - the frame of a page that needs nothing beside it: no script, no other
// file, light or dark as the reader's system is.
#pragma once

#include <string>

namespace strata::cli {

/// Text that stands for itself in HTML, also within quotes. Names from files pass through this.
std::string html_escaped(const std::string& text);

/// `title` and `heading` are text, `body` is HTML. Colours --ink, --paper, --line and --c0 to --c5.
std::string html_page(const std::string& title, const std::string& heading,
                      const std::string& body);

}  // namespace strata::cli
