// tools/cli/completions.h - what a shell offers after `strata`: verbs, their options, and the
// values that an option's row names. Why generated: rows come and go, and a script of our own would
// lag.
#pragma once

#include <string>

namespace strata::cli {

// Scripts from verbs() and option_table(). They run no program: what they offer was there when
// they were printed.
std::string bash_completions();
std::string zsh_completions();
std::string fish_completions();

}  // namespace strata::cli
