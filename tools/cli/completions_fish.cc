#include "tools/cli/completions.h"

#include <fmt/format.h>

#include "tools/cli/completion_words.h"

namespace strata::cli {
namespace {

std::string fish_quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c;
  }
  return out + "'";
}

std::string fish_values(const OptionSpec& option) {
  if (option.kind == ValueKind::kFlag) return "";
  const OfferedValues values = offered_values(option);
  if (values.directories && !values.files)
    return " -x -a '(__fish_complete_directories (commandline -ct))'";
  std::string out = values.files ? " -r -F" : " -x";
  if (!values.words.empty()) out += fmt::format(" -a {}", fish_quoted(joined_words(values.words)));
  return out;
}

std::string fish_option(const Verb& verb, const OptionSpec& option) {
  std::string flags;
  for (const std::string& name : option_flags(option)) {
    if (name.starts_with("--"))
      flags += " -l " + name.substr(2);
    else
      flags += (name.size() == 2 ? " -s " : " -o ") + name.substr(1);
  }
  return fmt::format("complete -c strata -n '__strata_is {}'{}{} -d {}\n", verb.syntax.name, flags,
                     fish_values(option), fish_quoted(option.help));
}

constexpr std::string_view kFishHead =
    R"(# Completions of strata for fish, printed by `strata completion fish`.
# True where the words before the cursor begin with these behind the program's name.
function __strata_is
  set -l typed (commandline -opc)
  set -e typed[1]
  for word in $argv
    test "$typed[1]" = $word; or return 1
    set -e typed[1]
  end
end
# True where they are just these.
function __strata_at
  set -l typed (commandline -opc)
  test (count $typed) -eq (math (count $argv) + 1); and __strata_is $argv
end
complete -c strata -f
)";

}  // namespace

std::string fish_completions() {
  std::string out(kFishHead);
  const auto offer = [&](std::string_view before, std::string_view word, std::string_view said) {
    out += fmt::format("complete -c strata -n '__strata_at{}{}' -a {} -d {}\n",
                       before.empty() ? "" : " ", before, word, fish_quoted(said));
  };
  for (const Verb& verb : verbs()) {
    const auto words = verb_words(verb);
    if (words.size() == 1)
      offer("", words[0], verb.summary);
    else
      offer(words[0], words[1], verb.summary);
  }
  for (const std::string& group : group_names())
    offer("", group, fmt::to_string(fmt::join(second_words(group), ", ")));
  offer("", "help", "show the options of a verb");
  for (const std::string& word : first_words()) offer("help", word, "its options");
  for (const std::string& group : group_names())
    for (const std::string& word : second_words(group)) offer("help " + group, word, "its options");
  for (const Verb& verb : verbs()) {
    for_each_option(verb, [&](const OptionSpec& option) { out += fish_option(verb, option); });
    const OptionSpec* alone = find_option(verb.syntax.positional);
    if (alone == nullptr) continue;
    const OfferedValues values = offered_values(*alone);
    out += fmt::format("complete -c strata -n '__strata_is {}'{} -a {}\n", verb.syntax.name,
                       values.files ? " -F" : "", fish_quoted(joined_words(values.words)));
  }
  return out;
}

}  // namespace strata::cli
