#include "tools/cli/program.h"

#include <fmt/format.h>

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
    "  strata inspect MODEL.gguf                     what a model file holds\n"
    "  strata run -m MODEL.gguf -p \"Hello\"           one answer\n"
    "  strata run -m MODEL.gguf -f BOOK.txt -p \"...\" a question about a long text\n"
    "  strata chat -m MODEL.gguf                     a conversation\n";

std::string program_help() {
  std::string out =
      "strata - large language models with long contexts\n\nUsage: strata VERB "
      "[options]\n\nVerbs:\n";
  for (const Verb& verb : verbs())
    out += fmt::format("  {:<10} {}\n", verb.syntax.name, verb.summary);
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

const Verb* find_verb(std::string_view name) {
  for (const Verb& verb : verbs())
    if (verb.syntax.name == name) return &verb;
  return nullptr;
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
  const std::string& name = is_help ? arguments[1] : first;
  const Verb* verb = find_verb(name);
  if (verb == nullptr) {
    std::vector<std::string> known;
    for (const Verb& candidate : verbs()) known.emplace_back(candidate.syntax.name);
    const std::string near = nearest_word(name, known);
    throw Error(ErrorCode::kUsage,
                name.starts_with('-') ? fmt::format("wanted a verb first, found {}", name)
                                      : fmt::format("unknown verb '{}'", name),
                "strata",
                near.empty() ? "`strata --help` lists the verbs"
                             : fmt::format("did you mean `strata {}`?", near));
  }
  if (is_help) return print(verb_help(*verb));
  const Command command = read_command(verb->syntax, arguments.subspan(1), get);
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

}  // namespace

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
  bool json = wants_json(arguments, get);
  try {
    return dispatch(arguments, get, json);
  } catch (const std::exception& error) {
    const ErrorReport report = report_error(error);
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
}

std::string version_text() { return fmt::format("strata {}", STRATA_VERSION); }

}  // namespace strata::cli
