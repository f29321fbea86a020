// tools/cli/completion_words.h - what the completions of every shell are made of.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tools/cli/program.h"

namespace strata::cli {

/// What may stand behind an option, as far as its row says it.
struct OfferedValues {
  std::vector<std::string> words;
  bool files = false, directories = false;
};
OfferedValues offered_values(const OptionSpec& option);

/// The words of a verb's name: one, or two of a group's.
std::vector<std::string> verb_words(const Verb& verb);
/// The first words of groups ("session"), and what may follow each.
std::vector<std::string> group_names();
std::vector<std::string> second_words(std::string_view group);
/// What may stand behind the program's name: verbs and groups, each once, without "help".
std::vector<std::string> first_words();

/// "a b c".
std::string joined_words(const std::vector<std::string>& words);
/// In single quotes of bash or zsh.
std::string shell_quoted(std::string_view text);

template <class Use>
void for_each_option(const Verb& verb, const Use& use) {
  for (const OptionSpec& option : option_table())
    if ((option.verbs & verb.syntax.bit) != 0) use(option);
}

}  // namespace strata::cli
