#include "tools/cli/completion_words.h"

#include <fmt/format.h>

#include <algorithm>

namespace strata::cli {
namespace {

void add_once(std::vector<std::string>& words, const std::string& word) {
  if (std::ranges::find(words, word) == words.end()) words.push_back(word);
}

}  // namespace

OfferedValues offered_values(const OptionSpec& option) {
  // The name of the value is a list of words to type and of kinds in capitals: "auto|none|cuda:N".
  OfferedValues offered;
  std::string_view rest = option.value_name;
  if (rest.find('=') != std::string_view::npos) return offered;  // its words end a longer one
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('|'), rest.size());
    const std::string_view part = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    const bool is_word = std::ranges::all_of(part, [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '+';
    });
    if (is_word) offered.words.emplace_back(part);
    if (part == "VERB") offered.words = first_words();
    offered.files |= part == "FILE" || part == "PATH";
    offered.directories |= part == "DIR";
  }
  return offered;
}

std::vector<std::string> verb_words(const Verb& verb) {
  const std::string name(verb.syntax.name);
  const size_t space = name.find(' ');
  if (space == std::string::npos) return {name};
  return {name.substr(0, space), name.substr(space + 1)};
}

std::vector<std::string> group_names() {
  std::vector<std::string> groups;
  for (const Verb& verb : verbs()) {
    const auto words = verb_words(verb);
    if (words.size() == 2) add_once(groups, words[0]);
  }
  return groups;
}

std::vector<std::string> second_words(std::string_view group) {
  std::vector<std::string> seconds;
  for (const Verb& verb : verbs()) {
    const auto words = verb_words(verb);
    if (words.size() == 2 && words[0] == group) seconds.push_back(words[1]);
  }
  return seconds;
}

std::vector<std::string> first_words() {
  std::vector<std::string> words;
  for (const Verb& verb : verbs()) add_once(words, verb_words(verb)[0]);
  return words;
}

std::string joined_words(const std::vector<std::string>& words) {
  return fmt::to_string(fmt::join(words, " "));
}

std::string shell_quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace strata::cli
