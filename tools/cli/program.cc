#include "tools/cli/program.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <new>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/context_size.h"
#include "tools/cli/answer_sink.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/notices.h"
#include "tools/cli/standard_streams.h"
#include "tools/cli/value_readers.h"

namespace strata::cli {
namespace {

constexpr std::string_view kFirstSteps =
    "First steps:\n"
    "  strata doctor                                 what this machine can do\n"
    "  strata inspect MODEL.gguf                     what a model file holds\n"
    "  strata run -m MODEL.gguf -p \"Hello\"           one answer\n"
    "  strata run -m MODEL.gguf -f BOOK.txt -p \"...\" a question about a long text\n"
    "  strata chat -m MODEL.gguf                     a conversation\n";

std::string verb_line(const Verb& verb) {
  return fmt::format("  {:<15} {}\n", verb.syntax.name, verb.summary);
}

std::string program_help() {
  std::string out =
      "strata - large language models with long contexts\n\nUsage: strata VERB "
      "[options]\n\nVerbs:\n";
  for (const Verb& verb : verbs()) out += verb_line(verb);
  out += fmt::format(
      "\n{}\n`strata VERB --help` lists a verb's options. `strata --version` prints the version.\n",
      kFirstSteps);
  return out;
}

std::string verb_help(const Verb& verb) {
  return fmt::format(
      "strata {} - {}\n\nUsage: strata {}\n{}\n"
      "A flag --some-name is also STRATA_SOME_NAME in the environment and some-name in the config "
      "file, below its\n"
      "table ({}).\n"
      "Flag, then environment, then file, then default.\n",
      verb.syntax.name, verb.summary, verb.usage, options_help(verb.syntax.bit), section_list());
}

/// Whether errors go out as JSON while the command line itself may be what is wrong: this looks at
/// words only.
bool wants_json(std::span<const std::string> arguments, const GetVariable& get) {
  if (std::ranges::find(arguments, "--json") != arguments.end()) return true;
  const auto variable = get("STRATA_JSON");
  return variable && read_switch(*variable).value_or(false);
}

/// The verb that `words` begin with, or null; one or two of them are its name.
const Verb* find_verb(std::span<const std::string> words) {
  for (const Verb& verb : verbs()) {
    const std::string_view name = verb.syntax.name;
    if (name == words.front()) return &verb;
    if (words.size() > 1 && name == words[0] + " " + words[1]) return &verb;
  }
  return nullptr;
}

/// The verbs whose names begin with `group` as a word of its own.
std::vector<const Verb*> verbs_of_group(const std::string& group) {
  std::vector<const Verb*> found;
  for (const Verb& verb : verbs())
    if (verb.syntax.name.starts_with(group + " ")) found.push_back(&verb);
  return found;
}

std::string group_help(const std::string& group) {
  std::string out = fmt::format("Usage: strata {} VERB [options]\n\nVerbs:\n", group);
  for (const Verb* verb : verbs_of_group(group)) out += verb_line(*verb);
  return out + fmt::format("\n`strata {} VERB --help` lists a verb's options.\n", group);
}

[[noreturn]] void refuse_word(const std::string& message, const std::string& place,
                              std::string_view word, std::span<const std::string> known) {
  const std::string near = nearest_word(word, known);
  throw Error(ErrorCode::kUsage, message, place,
              near.empty() ? fmt::format("`{} --help` lists the verbs", place)
                           : fmt::format("did you mean `{} {}`?", place, near));
}

/// `words` begin with no verb.
[[noreturn]] void refuse_verb(std::span<const std::string> words) {
  const std::string& first = words.front();
  std::vector<std::string> known;
  const auto of_group = verbs_of_group(first);
  if (of_group.empty()) {
    for (const Verb& verb : verbs())
      known.emplace_back(verb.syntax.name.substr(0, verb.syntax.name.find(' ')));
    refuse_word(first.starts_with('-') ? fmt::format("wanted a verb first, found {}", first)
                                       : fmt::format("unknown verb '{}'", first),
                "strata", first, known);
  }
  for (const Verb* verb : of_group) known.emplace_back(verb->syntax.name.substr(first.size() + 1));
  const std::string second = words.size() > 1 ? words[1] : "";
  const bool is_word = !second.empty() && !second.starts_with('-');
  refuse_word(is_word ? fmt::format("unknown verb '{} {}', wanted {}", first, second,
                                    fmt::join(known, " or "))
                      : fmt::format("wanted {} after '{}', found {}", fmt::join(known, " or "),
                                    first, second.empty() ? "nothing" : second),
              "strata " + first, second, known);
}

int print(const std::string& text) {
  AnswerSink sink = AnswerSink::open("");
  sink.write(text);
  return 0;
}

/// `json` becomes what the command line, the environment and the config file together say.
int dispatch(std::span<const std::string> arguments, const GetVariable& get, bool& json) {
  if (arguments.empty()) {
    std::fputs(program_help().c_str(), stderr);
    return exit_code(ErrorCode::kUsage);
  }
  const std::string& first = arguments.front();
  if (first == "--help" || first == "-h" || (first == "help" && arguments.size() == 1))
    return print(program_help());
  if (first == "--version") return print(version_text() + "\n");
  const bool is_help = first == "help";
  const auto words = is_help ? arguments.subspan(1) : arguments;
  const Verb* verb = find_verb(words);
  if (verb == nullptr) {
    const bool asks_help = is_help ? words.size() == 1
                                   : words.size() > 1 && (words[1] == "--help" || words[1] == "-h");
    if (asks_help && !verbs_of_group(words.front()).empty())
      return print(group_help(words.front()));
    refuse_verb(words);
  }
  if (is_help) return print(verb_help(*verb));
  const size_t n_words = verb->syntax.name == words.front() ? 1 : 2;
  const Command command = read_command(verb->syntax, words.subspan(n_words), get);
  json = command.settings.json ||
         (verb->syntax.bit == kBench && command.settings.output_format.starts_with("json"));
  if (command.settings.help) return print(verb_help(*verb));
  if (command.settings.version) return print(version_text() + "\n");
  return verb->run(command);
}

ErrorReport make_report(ErrorCode code, const std::string& message, const std::string& where,
                        const std::string& remedy, nlohmann::ordered_json extra) {
  ErrorReport report;
  report.exit_code = exit_code(code);
  report.line = "error: " + one_line(message);
  if (!where.empty()) report.line += fmt::format(" [{}]", one_line(where));
  if (!remedy.empty()) report.line += fmt::format(" (remedy: {})", one_line(remedy));
  nlohmann::ordered_json fields = {
      {"code", error_code_name(code)}, {"message", message}, {"where", where}, {"remedy", remedy}};
  fields.update(extra);
  const nlohmann::ordered_json root = {{"error", fields}};
  report.json = root.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  return report;
}

int say_error(const ErrorReport& report, bool json) {
  if (!json) {
    notice(report.line);
    return report.exit_code;
  }
  try {
    AnswerSink::open("").write_line(report.json);
  } catch (const Error&) {
    notice(report.line);  // standard output is what failed
  }
  return report.exit_code;
}

}  // namespace

int report_no_memory(bool json) noexcept {
  constexpr std::string_view kLine =
      "error: the system refused memory (remedy: free memory, or use a smaller context (-c), "
      "-ctk q8_0 -ctv q8_0 or a smaller model)\n";
  constexpr std::string_view kJson =
      R"({"error":{"code":"out_of_memory","message":"the system refused memory","where":"",)"
      R"("remedy":"free memory, or use a smaller context (-c), -ctk q8_0 -ctv q8_0 or a )"
      R"(smaller model"}})"
      "\n";
  const std::string_view text = json ? kJson : kLine;
  (void)!::write(json ? STDOUT_FILENO : STDERR_FILENO, text.data(), text.size());
  return exit_code(ErrorCode::kOutOfMemory);
}

ErrorReport report_error(const std::exception& error) {
  if (const auto* too_long = dynamic_cast<const engine::ContextLengthError*>(&error)) {
    return make_report(
        too_long->code(), too_long->what(), too_long->where(), too_long->remedy(),
        {{"n_prompt_tokens", too_long->n_prompt_tokens()}, {"n_ctx", too_long->n_ctx()}});
  }
  if (const auto* known = dynamic_cast<const Error*>(&error)) {
    return make_report(known->code(), known->what(), known->where(), known->remedy(),
                       nlohmann::ordered_json::object());
  }
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return make_report(
        ErrorCode::kOutOfMemory, "the system refused memory", "",
        "free memory, or use a smaller context (-c), -ctk q8_0 -ctv q8_0 or a smaller model",
        nlohmann::ordered_json::object());
  }
  return make_report(ErrorCode::kIo, fmt::format("unexpected failure: {}", error.what()), "",
                     "please report this", nlohmann::ordered_json::object());
}

int run_program(std::span<const std::string> arguments, const GetVariable& get) {
  fill_closed_streams();
  catch_interrupts(SecondInterrupt::kEndsProgram);
  bool json = false;
  try {
    try {
      json = wants_json(arguments, get);
      return dispatch(arguments, get, json);
    } catch (const std::exception& error) {
      return say_error(report_error(error), json);
    }
  } catch (const std::bad_alloc&) {  // saying it takes memory as well
    return report_no_memory(json);
  }
}

std::string version_text() { return fmt::format("strata {}", STRATA_VERSION); }

}  // namespace strata::cli
