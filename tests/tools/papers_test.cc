// Completions and manual pages hold every verb and every option, and are what bash and man read.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/engine/test_folder.h"
#include "tests/tools/strata_process.h"
#include "tools/cli/completion_words.h"
#include "tools/cli/completions.h"
#include "tools/cli/man_page.h"

namespace strata::cli {
namespace {

void write_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

/// Standard output of a command of bash; fails where the command does.
std::string shell_output(const engine::testing::TestFolder& folder, const std::string& script) {
  write_text(folder.path("script"), script);
  const std::string command = "bash '" + folder.path("script") + "' > '" + folder.path("out") +
                              "' 2> '" + folder.path("err") + "'";
  const int status = std::system(command.c_str());
  std::ostringstream out, err;
  out << std::ifstream(folder.path("out")).rdbuf();
  err << std::ifstream(folder.path("err")).rdbuf();
  EXPECT_EQ(status, 0) << err.str();
  EXPECT_EQ(err.str(), "");
  return out.str();
}

/// What bash offers for the last of these words.
std::set<std::string> bash_offers(const engine::testing::TestFolder& folder,
                                  const std::vector<std::string>& words) {
  std::string script = bash_completions() + "COMP_WORDS=(";
  for (const std::string& word : words) script += shell_quoted(word) + " ";
  script += ")\nCOMP_CWORD=" + std::to_string(words.size() - 1) +
            "\n_strata\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n";
  std::istringstream lines(shell_output(folder, script));
  std::set<std::string> offers;
  for (std::string line; std::getline(lines, line);)
    if (!line.empty()) offers.insert(line);
  return offers;
}

using Offers = std::set<std::string>;

TEST(Completions, OfBashOfferVerbsAndTheirSecondWords) {
  const engine::testing::TestFolder folder;
  EXPECT_EQ(bash_offers(folder, {"strata", "ru"}), (Offers{"run"}));
  EXPECT_EQ(bash_offers(folder, {"strata", "se"}), (Offers{"serve", "session"}));
  EXPECT_EQ(bash_offers(folder, {"strata", "session", "s"}), (Offers{"save", "show"}));
  EXPECT_EQ(bash_offers(folder, {"strata", "help", "cal"}), (Offers{"calibrate"}));
  EXPECT_EQ(bash_offers(folder, {"strata", "help", "cache", ""}), (Offers{"list", "rm"}));
  EXPECT_EQ(bash_offers(folder, {"strata", "nothing", ""}), Offers{});
}

TEST(Completions, OfBashOfferEveryOptionOfAVerbAndNoOther) {
  const engine::testing::TestFolder folder;
  for (const Verb& verb : verbs()) {
    std::vector<std::string> words = {"strata"};
    for (const std::string& word : verb_words(verb)) words.push_back(word);
    words.emplace_back("-");
    Offers flags;
    for_each_option(verb, [&](const OptionSpec& option) {
      for (const std::string& flag : option_flags(option)) flags.insert(flag);
    });
    EXPECT_EQ(bash_offers(folder, words), flags) << verb.syntax.name;
  }
}

TEST(Completions, OfBashOfferWhatARowSaysOfItsValues) {
  const engine::testing::TestFolder folder;
  write_text(folder.path("a book.txt"), "x");
  std::filesystem::create_directory(folder.path("a folder"));
  const std::string beginning = folder.path("a ");
  EXPECT_EQ(bash_offers(folder, {"strata", "run", "-ctk", ""}), (Offers{"f16", "q8_0"}));
  EXPECT_EQ(bash_offers(folder, {"strata", "run", "--attn", "rabitq"}),
            (Offers{"rabitq", "rabitq+tail"}));
  EXPECT_EQ(bash_offers(folder, {"strata", "run", "--device", "=", "n"}), (Offers{"none"}));
  EXPECT_EQ(bash_offers(folder, {"strata", "run", "--device", "="}), (Offers{"auto", "none"}));
  EXPECT_EQ(bash_offers(folder, {"strata", "run", "-f", beginning}),
            (Offers{folder.path("a book.txt"), folder.path("a folder")}));
  EXPECT_EQ(bash_offers(folder, {"strata", "doctor", "--nvme", beginning}),
            (Offers{folder.path("a folder")}));
  EXPECT_EQ(bash_offers(folder, {"strata", "inspect", beginning}),
            (Offers{folder.path("a book.txt"), folder.path("a folder")}));
  EXPECT_EQ(bash_offers(folder, {"strata", "run", "-n", ""}), Offers{}) << "a number is not known";
  EXPECT_EQ(bash_offers(folder, {"strata", "run", "--pin", ""}), Offers{}) << "REGEX=hbm|dram|nvme";
  EXPECT_EQ(bash_offers(folder, {"strata", "completion", ""}), (Offers{"bash", "fish", "zsh"}));
  EXPECT_EQ(bash_offers(folder, {"strata", "man", "tok"}), (Offers{"tokenize"}));
}

TEST(Completions, OfZshAndFishHoldEveryVerbAndEveryOption) {
  const std::string zsh = zsh_completions(), fish = fish_completions();
  for (const Verb& verb : verbs()) {
    const std::string name(verb.syntax.name);
    const size_t begin = zsh.find("'" + name + "')\n    _arguments");
    ASSERT_NE(begin, std::string::npos) << name;
    const std::string part = zsh.substr(begin, zsh.find(";;", begin) - begin);
    for_each_option(verb, [&](const OptionSpec& option) {
      for (const std::string& flag : option_flags(option)) {
        const bool has_value = option.kind != ValueKind::kFlag && flag.starts_with("--");
        EXPECT_NE(part.find(flag + (has_value ? "=[" : "[")), std::string::npos) << name << flag;
        const std::string fish_flag = flag.starts_with("--")
                                          ? " -l " + flag.substr(2)
                                          : (flag.size() == 2 ? " -s " : " -o ") + flag.substr(1);
        bool is_there = false;
        std::istringstream lines(fish);
        for (std::string line; std::getline(lines, line);)
          is_there |= line.starts_with("complete -c strata -n '__strata_is " + name + "'") &&
                      line.find(fish_flag + " ") != std::string::npos;
        EXPECT_TRUE(is_there) << name << flag;
      }
    });
  }
}

/// Runs a shell's own check of a script, where that shell is installed.
void check_script(const std::string& shell, const std::string& script) {
  if (std::system(("command -v " + shell + " > /dev/null").c_str()) != 0)
    GTEST_SKIP() << shell << " is not installed";
  const engine::testing::TestFolder folder;
  write_text(folder.path("completions"), script);
  EXPECT_EQ(shell_output(folder, shell + " -n '" + folder.path("completions") + "'\n"), "");
}

TEST(Completions, AreAScriptOfBash) { check_script("bash", bash_completions()); }
TEST(Completions, AreAScriptOfZsh) { check_script("zsh", zsh_completions()); }
TEST(Completions, AreAScriptOfFish) { check_script("fish", fish_completions()); }

/// Roff without its escapes: the words that a reader sees.
std::string plain(std::string text) {
  for (const auto& [escape, shown] : std::vector<std::pair<std::string, std::string>>{
           {"\\fB", ""}, {"\\fI", ""}, {"\\fR", ""}, {"\\-", "-"}, {"\\(aq", "'"}, {"\\&", ""}}) {
    for (size_t at = text.find(escape); at != std::string::npos; at = text.find(escape, at))
      text.replace(at, escape.size(), shown);
  }
  return text;
}

TEST(ManPage, OfAVerbHoldsEveryOptionWithDefaultAndUnit) {
  for (const Verb& verb : verbs()) {
    const std::string page = plain(man_page(&verb));
    for (const OptionSpec& option : option_table()) {
      const std::string name = "--" + std::string(option.name);
      const bool belongs = (option.verbs & verb.syntax.bit) != 0;
      const size_t at = page.find(
          name + (option.value_name.empty() ? "\n" : " " + std::string(option.value_name) + "\n"));
      if (!belongs) continue;
      bool is_there = at != std::string::npos;
      // A flag that follows in the line, such as --rope-scale, takes the value's name.
      if (!is_there) is_there = page.find(name + ", ") != std::string::npos;
      EXPECT_TRUE(is_there) << verb.syntax.name << " " << name;
      EXPECT_NE(page.find("\n" + std::string(option.help) + ".\n"), std::string::npos) << name;
      if (option.kind == ValueKind::kFlag) continue;
      const std::string wanted =
          "Value: " + wanted_text(option) + ". Default: " +
          (option.default_text.empty() ? "none" : std::string(option.default_text)) + ".";
      EXPECT_NE(page.find(wanted), std::string::npos) << wanted;
    }
  }
}

TEST(ManPage, OfTheProgramListsEveryVerb) {
  const std::string page = plain(man_page(nullptr));
  for (const Verb& verb : verbs())
    EXPECT_NE(page.find("\n" + std::string(verb.syntax.name) + "\n" + std::string(verb.summary)),
              std::string::npos)
        << verb.syntax.name;
}

TEST(ManPage, IsReadByManWithoutAWarning) {
  if (std::system("command -v man > /dev/null && command -v groff > /dev/null") != 0)
    GTEST_SKIP() << "man or groff is not installed";
  const engine::testing::TestFolder folder;
  std::string script = "export LC_ALL=C MANWIDTH=100\n";
  std::vector<const Verb*> pages = {nullptr};
  for (const Verb& verb : verbs()) pages.push_back(&verb);
  for (const Verb* verb : pages) {
    const std::string path = folder.path(man_page_name(verb) + ".1");
    write_text(path, man_page(verb));
    script += "man --warnings -l '" + path + "' > '" + folder.path("shown") + "' 2>&1\n";
    script +=
        "grep -i warning '" + folder.path("shown") + "'\ntest -s '" + folder.path("shown") + "'\n";
  }
  EXPECT_EQ(shell_output(folder, script), "");
}

TEST(PaperVerbs, PrintAndWriteWhatIsAsked) {
  testing::Outcome outcome = testing::run_strata({"completion", "bash"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.out, bash_completions());
  EXPECT_EQ(testing::run_strata({"man"}).out, man_page(nullptr));
  for (const Verb& verb : verbs()) {
    if (verb.syntax.name != "session save") continue;
    EXPECT_EQ(testing::run_strata({"man", "session", "save"}).out, man_page(&verb));
  }
  const engine::testing::TestFolder folder;
  EXPECT_EQ(testing::run_strata({"man", "--pages", folder.path("man1")}).exit_code, 0);
  for (const Verb& verb : verbs())
    EXPECT_TRUE(std::filesystem::exists(folder.path("man1/") + man_page_name(&verb) + ".1"));
}

TEST(PaperVerbs, RefuseWhatTheyDoNotKnow) {
  for (const auto& [arguments, said] :
       std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"completion"}, "no shell is named"},
           {{"completion", "tcsh"}, "wanted bash or zsh or fish, found 'tcsh'"},
           {{"man", "rnu"}, "did you mean `strata man run`?"},
           {{"man", "run", "--pages", "/tmp"}, "--pages writes every page, not one"},
           {{"man", "--pages", "/dev/null/x"}, "cannot make the folder"}}) {
    const testing::Outcome outcome = testing::run_strata(arguments);
    EXPECT_NE(outcome.exit_code, 0);
    EXPECT_NE(outcome.err.find(said), std::string::npos) << outcome.err;
  }
}

}  // namespace
}  // namespace strata::cli
