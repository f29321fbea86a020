#include "tools/cli/completions.h"

#include <fmt/format.h>

#include "tools/cli/completion_words.h"

namespace strata::cli {
namespace {

/// What is offered behind an option, in place of what stands alone.
std::string bash_value_case(const OfferedValues& values, const std::string& patterns) {
  const std::string_view kind = values.files ? "-f" : values.directories ? "-d" : "''";
  return fmt::format("      {}) words={} kind={} ;;\n", patterns,
                     shell_quoted(joined_words(values.words)), kind);
}

std::string bash_verb_case(const Verb& verb) {
  std::string flags, cases;
  for_each_option(verb, [&](const OptionSpec& option) {
    const auto names = option_flags(option);
    flags += fmt::format("{}{}", flags.empty() ? "" : " ", fmt::join(names, " "));
    if (option.kind != ValueKind::kFlag)
      cases += bash_value_case(offered_values(option), fmt::to_string(fmt::join(names, "|")));
  });
  std::string out =
      fmt::format("    {})\n      flags={}\n", shell_quoted(verb.syntax.name), shell_quoted(flags));
  if (const OptionSpec* option = find_option(verb.syntax.positional)) {
    const OfferedValues values = offered_values(*option);
    if (!values.words.empty())
      out += fmt::format("      words={}\n", shell_quoted(joined_words(values.words)));
    if (values.files) out += "      kind=-f\n";
  }
  return out + fmt::format("      case $prev in\n{}      *) asks=flags ;;\n      esac ;;\n", cases);
}

constexpr std::string_view kBashHead =
    R"(# Completions of strata for bash, printed by `strata completion bash`.
_strata() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]}
  local words='' flags='' kind='' asks='' first=2
  COMPREPLY=()
  # Readline takes "=" for a word of its own, so --device=none comes as three.
  if [[ $cur == = ]]; then
    cur=''
  elif [[ $prev == = ]]; then
    prev=${COMP_WORDS[COMP_CWORD-2]}
  fi
)";

constexpr std::string_view kBashTail = R"(  esac
  if [[ $asks == flags && $cur == -* ]]; then
    words=$flags kind=''
  fi
  # What a row names is plain words; only names of files may hold spaces, and those come in lines.
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  if [[ -n $kind ]]; then
    local name
    while IFS= read -r name; do COMPREPLY+=("$name"); done < <(compgen "$kind" -- "$cur")
    compopt -o filenames 2>/dev/null
  fi
}
complete -F _strata strata
)";

}  // namespace

std::string bash_completions() {
  std::string out(kBashHead);
  out += fmt::format(
      "  if ((COMP_CWORD == 1)); then\n"
      "    COMPREPLY=($(compgen -W {} -- \"$cur\"))\n    return\n  fi\n"
      "  [[ $verb == help ]] && first=3 verb=${{COMP_WORDS[2]}}\n"
      "  if [[ $first == 3 ]] && ((COMP_CWORD == 2)); then\n"
      "    COMPREPLY=($(compgen -W {} -- \"$cur\"))\n    return\n  fi\n"
      "  case $verb in\n",
      shell_quoted(fmt::format("{} --help --version", fmt::join(first_words(), " "))),
      shell_quoted(joined_words(first_words())));
  for (const std::string& group : group_names())
    out += fmt::format(
        "  {0})\n    if ((COMP_CWORD == first)); then\n      COMPREPLY=($(compgen -W {1} -- "
        "\"$cur\"))\n      return\n    fi\n    verb+=\" ${{COMP_WORDS[first]}}\" ;;\n",
        group, shell_quoted(joined_words(second_words(group))));
  out += "  esac\n  [[ $first == 3 ]] && return\n  case $verb in\n";
  for (const Verb& verb : verbs()) out += bash_verb_case(verb);
  return out + std::string(kBashTail);
}

}  // namespace strata::cli
