// `strata completion` and `strata man`: what packagers install, printed by the program itself.
#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/check.h"
#include "base/error.h"
#include "tools/cli/answer_sink.h"
#include "tools/cli/completions.h"
#include "tools/cli/json_output.h"
#include "tools/cli/man_page.h"
#include "tools/cli/verb_functions.h"

namespace strata::cli {
namespace {

/// `text`, or with --json an object that holds it.
int print_paper(const Command& command, const char* key, const std::string& name,
                const std::string& text) {
  AnswerSink sink = AnswerSink::open("");
  sink.write(command.settings.json ? json_text({{key, name}, {"text", text}}) + "\n" : text);
  sink.close();
  return 0;
}

void write_page(const std::string& folder, const Verb* verb) {
  AnswerSink sink = AnswerSink::open(
      (std::filesystem::path(folder) / (man_page_name(verb) + ".1")).string(), "a manual page");
  sink.write(man_page(verb));
  sink.close();
}

int write_pages(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error)
    throw Error(ErrorCode::kIo, fmt::format("cannot make the folder: {}", error.message()), folder,
                "name another one with --pages");
  write_page(folder, nullptr);
  for (const Verb& verb : verbs()) write_page(folder, &verb);
  return 0;
}

/// The verb of these words; null = none, the program. Errors: kUsage.
const Verb* asked_verb(const std::vector<std::string>& words) {
  if (words.empty()) return nullptr;
  const std::string name = fmt::to_string(fmt::join(words, " "));
  std::vector<std::string> known;
  for (const Verb& verb : verbs()) {
    if (verb.syntax.name == name) return &verb;
    known.emplace_back(verb.syntax.name);
  }
  const std::string near = nearest_word(name, known);
  throw Error(ErrorCode::kUsage, fmt::format("unknown verb '{}'", name), "strata man",
              near.empty() ? "`strata --help` lists the verbs"
                           : fmt::format("did you mean `strata man {}`?", near));
}

}  // namespace

int run_completion(const Command& command) {
  const std::string& shell = command.settings.shell;
  if (!command.is_set("shell"))
    throw Error(ErrorCode::kUsage, "no shell is named", "strata completion",
                "strata completion bash, zsh or fish");
  std::string script;
  if (shell == "bash") script = bash_completions();
  if (shell == "zsh") script = zsh_completions();
  if (shell == "fish") script = fish_completions();
  STRATA_CHECK(!script.empty(), "no shell %s", shell.c_str());  // the table has no other
  return print_paper(command, "shell", shell, script);
}

int run_man(const Command& command) {
  const Settings& settings = command.settings;
  if (!settings.pages.empty()) {
    if (!settings.verb.empty())
      throw Error(ErrorCode::kUsage, "--pages writes every page, not one", command.where("pages"),
                  "leave the verb or --pages out");
    return write_pages(settings.pages);
  }
  const Verb* verb = asked_verb(settings.verb);
  return print_paper(command, "page", man_page_name(verb) + ".1", man_page(verb));
}

}  // namespace strata::cli
