// tools/cli/man_page.h - manual pages in roff, from verbs() and option_table().
// Source: man-pages(7) for the order of sections, man(7) for the macros.
#pragma once

#include <string>

#include "tools/cli/program.h"

namespace strata::cli {

/// "strata" of the program (null), "strata-session-save" of a verb; its file adds ".1".
std::string man_page_name(const Verb* verb);
/// The page of the program (null), which lists the verbs, or of a verb with all of its options:
/// flags, default, range and unit, variable of the environment, key of the config file.
std::string man_page(const Verb* verb);

}  // namespace strata::cli
