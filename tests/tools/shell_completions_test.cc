// What zsh and fish offer after `strata`, asked of the shells themselves.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/engine/test_folder.h"
#include "tools/cli/completion_words.h"
#include "tools/cli/completions.h"

namespace strata::cli {
namespace {

using Offers = std::set<std::string>;

void write_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

bool is_installed(const std::string& program) {
  return std::system(("command -v " + program + " > /dev/null").c_str()) == 0;
}

/// What a shell said, cut at lines that begin with @: one part for each line that was typed.
std::vector<Offers> offers_in(const std::string& path) {
  std::vector<Offers> offers;
  std::ifstream lines(path, std::ios::binary);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with('@'))
      offers.emplace_back();
    else if (!offers.empty())
      offers.back().insert(line.substr(0, line.find('\t')));
  }
  return offers;
}

/// Runs a command in the folder; a shell that hangs fails it.
void run_in(const engine::testing::TestFolder& folder, const std::string& command) {
  const std::string whole = "cd '" + folder.path("") + "' && HOME=$PWD timeout 300 " + command +
                            " > screen 2> errors < /dev/null";
  const int status = std::system(whole.c_str());
  std::ostringstream errors;
  errors << std::ifstream(folder.path("errors")).rdbuf();
  ASSERT_EQ(status, 0) << errors.str();
  EXPECT_EQ(errors.str(), "");
}

std::vector<Offers> fish_offers(const engine::testing::TestFolder& folder,
                                const std::vector<std::string>& lines) {
  std::string script = fish_completions();
  for (const std::string& line : lines)
    script += "echo @ >> offers\ncomplete -C " + shell_quoted(line) + " >> offers\n";
  write_text(folder.path("script"), script);
  run_in(folder, "fish --no-config script");
  return offers_in(folder.path("offers"));
}

// An interactive zsh on a terminal of its own: a key asks for what it offers, line after line, and
// what its functions add is noted.
constexpr const char* kAskingZsh = R"(autoload -U compinit; compinit -u -D
source ./completions
compadd () {
  if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return $?; fi
  local -a hits
  builtin compadd -A hits "$@"
  (( $#hits )) && print -rl -- $hits >> offers
  builtin compadd "$@"
}
zle -C offer list-choices _main_complete
ask () {
  local line
  for line in "${(@f)$(< lines)}"; do
    print @ >> offers
    BUFFER=$line CURSOR=$#line
    zle offer
  done
  BUFFER=
}
zle -N ask
bindkey '^G' ask
)";
constexpr const char* kZshTerminal = R"(zmodload zsh/zpty
zpty inner zsh -f -i
zpty -w inner 'source ./asking'
zpty -w -n inner $'\x07'
zpty -w inner exit
while zpty -r inner line; do print -r -- "$line"; done
exit 0
)";

std::vector<Offers> zsh_offers(const engine::testing::TestFolder& folder,
                               const std::vector<std::string>& lines) {
  std::string typed;
  for (const std::string& line : lines) typed += line + "\n";
  write_text(folder.path("completions"), zsh_completions());
  write_text(folder.path("lines"), typed);
  write_text(folder.path("asking"), kAskingZsh);
  write_text(folder.path("terminal"), kZshTerminal);
  run_in(folder, "zsh -f terminal");
  return offers_in(folder.path("offers"));
}

class ShellCompletions : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!is_installed(GetParam())) GTEST_SKIP() << GetParam() << " is not installed";
  }
  bool is_zsh() const { return GetParam() == "zsh"; }
  std::vector<Offers> offers(const std::vector<std::string>& lines) {
    std::vector<Offers> all = is_zsh() ? zsh_offers(folder, lines) : fish_offers(folder, lines);
    EXPECT_EQ(all.size(), lines.size());
    all.resize(lines.size());
    return all;
  }
  void expect_offers(const std::vector<std::pair<std::string, Offers>>& wanted) {
    std::vector<std::string> lines;
    for (const auto& [line, unused] : wanted) lines.push_back(line);
    const std::vector<Offers> all = offers(lines);
    for (size_t i = 0; i < wanted.size(); ++i) EXPECT_EQ(all[i], wanted[i].second) << lines[i];
  }
  engine::testing::TestFolder folder;
};

INSTANTIATE_TEST_SUITE_P(Of, ShellCompletions, ::testing::Values("zsh", "fish"),
                         [](const auto& of) { return of.param; });

TEST_P(ShellCompletions, OfferVerbsAndTheirSecondWords) {
  expect_offers({{"strata ru", {"run"}},
                 {"strata se", {"serve", "session"}},
                 {"strata session s", {"save", "show"}},
                 {"strata help cal", {"calibrate"}},
                 {"strata help cache ", {"list", "rm"}},
                 {"strata help run ", {}},
                 {"strata nothing ", {}}});
}

TEST_P(ShellCompletions, OfferEveryOptionOfAVerbAndNoOther) {
  std::vector<std::pair<std::string, Offers>> wanted;
  for (const Verb& verb : verbs()) {
    Offers flags;
    for_each_option(verb, [&](const OptionSpec& option) {
      for (const std::string& flag : option_flags(option)) flags.insert(flag);
    });
    wanted.emplace_back("strata " + std::string(verb.syntax.name) + " -", flags);
  }
  expect_offers(wanted);
}

TEST_P(ShellCompletions, OfferWhatARowSaysOfItsValues) {
  std::filesystem::create_directory(folder.path("places"));
  write_text(folder.path("places/x.txt"), "x");
  std::filesystem::create_directory(folder.path("places/xfolder"));
  // zsh adds the name behind the folder that was typed, fish the whole word.
  const auto path = [&](const std::string& name) { return is_zsh() ? name : "places/" + name; };
  const std::string folder_name = is_zsh() ? "xfolder" : "places/xfolder/";
  const std::string none = is_zsh() ? "none" : "--device=none";
  expect_offers({{"strata run -ctk ", {"f16", "q8_0"}},
                 {"strata run --attn rabitq", {"rabitq", "rabitq+tail"}},
                 {"strata run --device=n", {none}},
                 {"strata run --device ", {"auto", "none"}},
                 {"strata run -f places/x", {path("x.txt"), folder_name}},
                 {"strata doctor --nvme places/x", {folder_name}},
                 {"strata inspect places/x", {path("x.txt"), folder_name}},
                 {"strata run -n ", {}},
                 {"strata run --pin ", {}},
                 {"strata completion ", {"bash", "fish", "zsh"}},
                 {"strata man tok", {"tokenize"}}});
}

}  // namespace
}  // namespace strata::cli
