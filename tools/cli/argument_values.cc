// The one file that includes CLI11: flags of the table become CLI11 options whose texts the table's
// own readers parse.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "base/error.h"
#include "tools/cli/command_line.h"

namespace strata::cli {
namespace {

constexpr const char* kHelpRemedy = "`strata {} --help` lists the options";

bool takes_value(const OptionSpec& option) { return option.kind != ValueKind::kFlag; }

/// Spells flags as CLI11 knows them: `-ctk` (several letters after one dash) is not its syntax, and
/// `--name=` with nothing behind it would make it take the next argument. Values and everything
/// unknown pass as they are.
std::vector<std::string> plain_arguments(const VerbSyntax& verb,
                                         std::span<const std::string> arguments) {
  std::vector<std::string> out;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--") {
      out.insert(out.end(), arguments.begin() + static_cast<std::ptrdiff_t>(i), arguments.end());
      break;
    }
    const size_t equals = argument.find('=');
    const OptionSpec* option = find_flag(std::string_view(argument).substr(0, equals), verb.bit);
    if (option == nullptr || (equals != std::string::npos && !takes_value(*option))) {
      out.push_back(argument);
      continue;
    }
    out.push_back("--" + std::string(option->name));
    if (!takes_value(*option)) continue;
    if (equals != std::string::npos) {
      out.push_back(argument.substr(equals + 1));
    } else if (i + 1 < arguments.size()) {
      out.push_back(arguments[++i]);
    }
  }
  return out;
}

/// Flags CLI11 accepts: --name, single letters, and --no-name for switches.
std::string cli11_names(const OptionSpec& option, const VerbSyntax& verb) {
  std::string names;
  for (const std::string& flag : option_flags(option)) {
    if (!flag.starts_with("--") && flag.size() != 2) continue;
    names += (names.empty() ? "" : ",") + flag;
  }
  if (option.kind == ValueKind::kFlag) names += fmt::format(",!--no-{}", option.name);
  const bool is_one_word = option.name == verb.positional && option.kind != ValueKind::kTextList;
  if (is_one_word) names += fmt::format(",{}", option.name);
  return names;
}

[[noreturn]] void refuse_unknown(const VerbSyntax& verb, const std::string& argument) {
  const std::string flag = argument.substr(0, argument.find('='));
  const bool is_flag = argument.size() > 1 && argument.starts_with('-');
  if (!is_flag) {
    const bool is_model = argument.ends_with(".gguf") && find_flag("-m", verb.bit) != nullptr;
    const bool has_prompt = find_flag("-p", verb.bit) != nullptr && verb.positional.empty();
    throw Error(ErrorCode::kUsage, fmt::format("unexpected argument '{}'", argument),
                fmt::format("strata {}", verb.name),
                is_model     ? fmt::format("name the model with -m {}", argument)
                : has_prompt ? "quote the whole prompt: -p \"...\""
                             : fmt::format(kHelpRemedy, verb.name));
  }
  if (find_flag(flag, kEveryVerb) != nullptr) {
    throw Error(ErrorCode::kUsage, fmt::format("`strata {}` has no option {}", verb.name, flag),
                flag,
                fmt::format("it belongs to another verb; {}", fmt::format(kHelpRemedy, verb.name)));
  }
  std::vector<std::string> known;
  for (const OptionSpec& option : option_table()) {
    if ((option.verbs & verb.bit) == 0) continue;
    for (std::string& name : option_flags(option)) known.push_back(std::move(name));
  }
  const std::string near = nearest_word(flag, known);
  throw Error(
      ErrorCode::kUsage, fmt::format("unknown option {}", flag),
      fmt::format("strata {}", verb.name),
      near.empty() ? fmt::format(kHelpRemedy, verb.name) : fmt::format("did you mean {}?", near));
}

/// Of what CLI11 knows no option for: the values of a positional list. The rest is refused.
std::vector<std::string> positional_words(const VerbSyntax& verb,
                                          const std::vector<std::string>& extras) {
  const OptionSpec* positional = find_option(verb.positional);
  const bool takes_words = positional != nullptr && positional->kind == ValueKind::kTextList;
  std::vector<std::string> words;
  bool flags_ended = false;
  for (const std::string& extra : extras) {
    if (extra == "--" && !flags_ended) {
      flags_ended = true;
      continue;
    }
    if (!takes_words || (extra.starts_with('-') && !flags_ended)) refuse_unknown(verb, extra);
    words.push_back(extra);
  }
  return words;
}

}  // namespace

RawValues values_from_arguments(const VerbSyntax& verb, std::span<const std::string> arguments) {
  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  std::vector<std::pair<const OptionSpec*, CLI::Option*>> options;
  for (const OptionSpec& option : option_table()) {
    if ((option.verbs & verb.bit) == 0) continue;
    CLI::Option* known = nullptr;
    if (takes_value(option)) {
      known = app.add_option(cli11_names(option, verb),
                             CLI::callback_t([](const auto&) { return true; }));
      known->type_name(std::string(option.value_name));
      known->expected(1)->allow_extra_args(false)->multi_option_policy(
          CLI::MultiOptionPolicy::TakeAll);
    } else {
      known = app.add_flag(cli11_names(option, verb));
      known->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    }
    options.emplace_back(&option, known);
  }
  auto reversed = plain_arguments(verb, arguments);
  std::ranges::reverse(reversed);  // as CLI11 wants a vector
  try {
    app.parse(std::move(reversed));
  } catch (const CLI::ArgumentMismatch& error) {
    throw Error(ErrorCode::kUsage, fmt::format("an option lacks its value ({})", error.what()),
                fmt::format("strata {}", verb.name), fmt::format(kHelpRemedy, verb.name));
  } catch (const CLI::ParseError& error) {
    throw Error(ErrorCode::kUsage, error.what(), fmt::format("strata {}", verb.name),
                fmt::format(kHelpRemedy, verb.name));
  }
  const auto words = positional_words(verb, app.remaining());

  RawValues values;
  for (const auto& [option, known] : options) {
    if (known->count() == 0) continue;
    values[std::string(option->name)] = {known->results(), fmt::format("--{}", option->name)};
    const bool is_list = option->kind == ValueKind::kTextList;
    if (option->name == verb.positional && !is_list && known->results().size() > 1) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("{} is given {} times", option->name, known->results().size()),
                  fmt::format("strata {}", verb.name), "name it once");
    }
  }
  if (!words.empty()) {
    RawValue& value = values[std::string(verb.positional)];
    value.texts.insert(value.texts.end(), words.begin(), words.end());
    value.where = fmt::format("strata {}", verb.name);
  }
  return values;
}

}  // namespace strata::cli
