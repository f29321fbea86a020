#include "tools/cli/completions.h"

#include <fmt/format.h>

#include "tools/cli/completion_words.h"

namespace strata::cli {
namespace {

/// Text inside the brackets or the message of a specification of _arguments.
std::string zsh_escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string zsh_action(const OptionSpec& option) {
  const OfferedValues values = offered_values(option);
  if (values.files) return "_files";
  if (values.directories) return "_files -/";
  return values.words.empty() ? " " : fmt::format("({})", fmt::join(values.words, " "));
}

std::string zsh_option(const OptionSpec& option) {
  const bool is_list = option.kind == ValueKind::kTextList || option.kind == ValueKind::kCountList;
  const auto names = option_flags(option);
  std::string out;
  for (const std::string& name : names) {
    const bool takes_value = option.kind != ValueKind::kFlag;
    std::string spec = is_list ? "*" : fmt::format("({})", fmt::join(names, " "));
    spec += fmt::format("{}{}[{}]", name, takes_value && name.starts_with("--") ? "=" : "",
                        zsh_escaped(option.help));
    if (takes_value)
      spec += fmt::format(":{}:{}", zsh_escaped(option.value_name), zsh_action(option));
    out += fmt::format("      {} \\\n", shell_quoted(spec));
  }
  return out;
}

std::string zsh_described(std::string_view word, std::string_view summary) {
  return fmt::format("    {}\n", shell_quoted(fmt::format("{}:{}", word, summary)));
}

}  // namespace

std::string zsh_completions() {
  std::string out =
      "#compdef strata\n# Completions of strata for zsh, printed by `strata completion zsh`.\n"
      "_strata() {\n  local -a verbs\n  local verb=${words[2]}\n  if (( CURRENT == 2 )); then\n"
      "    verbs=(\n";
  for (const Verb& verb : verbs())
    if (verb_words(verb).size() == 1) out += zsh_described(verb.syntax.name, verb.summary);
  for (const std::string& group : group_names())
    out += zsh_described(group, fmt::to_string(fmt::join(second_words(group), ", ")));
  out += zsh_described("help", "show the options of a verb") +
         "    )\n    _describe verb verbs\n    return\n  fi\n  case $verb in\n";
  for (const std::string& group : group_names()) {
    out += fmt::format("  {})\n    if (( CURRENT == 3 )); then\n      verbs=(\n", group);
    for (const Verb& verb : verbs()) {
      const auto words = verb_words(verb);
      if (words.size() == 2 && words[0] == group) out += zsh_described(words[1], verb.summary);
    }
    out +=
        "      )\n      _describe verb verbs\n      return\n    fi\n    verb+=\" ${words[3]}\"\n"
        "    shift words\n    (( CURRENT-- )) ;;\n";
  }
  out +=
      fmt::format("  help)\n    (( CURRENT == 3 )) && compadd {}\n", fmt::join(first_words(), " "));
  for (const std::string& group : group_names())
    out += fmt::format("    (( CURRENT == 4 )) && [[ ${{words[3]}} == {} ]] && compadd {}\n", group,
                       fmt::join(second_words(group), " "));
  out += "    return ;;\n  esac\n  shift words\n  (( CURRENT-- ))\n  case $verb in\n";
  for (const Verb& verb : verbs()) {
    out += fmt::format("  {})\n    _arguments \\\n", shell_quoted(verb.syntax.name));
    for_each_option(verb, [&](const OptionSpec& option) { out += zsh_option(option); });
    const OptionSpec* option = find_option(verb.syntax.positional);
    out += option == nullptr
               ? "      ;;\n"
               : fmt::format("      {} ;;\n",
                             shell_quoted(fmt::format("*:{}:{}", zsh_escaped(option->value_name),
                                                      zsh_action(*option))));
  }
  // Read from a folder of functions this file is the function's body; sourced it only defines it.
  return out +
         "  esac\n}\nif [[ ${funcstack[1]} == _strata ]]; then\n  _strata \"$@\"\nelse\n"
         "  compdef _strata strata\nfi\n";
}

}  // namespace strata::cli
