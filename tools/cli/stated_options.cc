// A command as one could type it, for remedies.
#include <fmt/format.h>

#include <algorithm>

#include "engine/byte_text.h"
#include "tools/cli/plan_answer.h"

namespace strata::cli {
namespace {

/// As a shell takes it.
std::string quoted(const std::string& text) {
  constexpr const char* kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:,+%=@";
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string::npos) return text;
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

/// The values of an option, each as it is written behind the flag; a switch has none.
std::vector<std::string> value_texts(const OptionSpec& option, const Settings& settings) {
  if (const auto* text = std::get_if<std::string Settings::*>(&option.target))
    return {option.name == "nvme" && (settings.*(*text)).empty() ? "off" : settings.*(*text)};
  if (const auto* texts = std::get_if<std::vector<std::string> Settings::*>(&option.target))
    return settings.*(*texts);
  if (const auto* count = std::get_if<uint64_t Settings::*>(&option.target))
    return {option.kind == ValueKind::kSize ? engine::size_argument(settings.*(*count))
                                            : std::to_string(settings.*(*count))};
  if (const auto* counts = std::get_if<std::vector<uint64_t> Settings::*>(&option.target))
    return {fmt::format("{}", fmt::join(settings.*(*counts), ","))};
  if (const auto* number = std::get_if<int64_t Settings::*>(&option.target))
    return {std::to_string(settings.*(*number))};
  const double real = settings.*std::get<double Settings::*>(option.target);
  // The shortest text that is read as the same number: {:g} writes 30 minutes as 1.8e+06ms.
  return {fmt::format("{}{}", real, option.kind == ValueKind::kDuration ? "ms" : "")};
}

/// The shortest flag: "-m" for --model.
std::string flag_of(const OptionSpec& option) {
  const std::vector<std::string> flags = option_flags(option);
  return *std::ranges::min_element(flags, {}, &std::string::size);
}

}  // namespace

std::string command_line(const Command& command, std::string_view verb, VerbSet verbs,
                         std::span<const std::string_view> replaced, const std::string& instead) {
  std::string line = fmt::format("strata {}", verb);
  for (const OptionSpec& option : option_table()) {
    const bool is_kept = (option.verbs & verbs) != 0 && command.is_set(option.name) &&
                         std::ranges::find(replaced, option.name) == replaced.end();
    if (!is_kept) continue;
    if (const auto* is_on = std::get_if<bool Settings::*>(&option.target)) {
      line += fmt::format(" --{}{}", command.settings.*(*is_on) ? "" : "no-", option.name);
      continue;
    }
    for (const std::string& text : value_texts(option, command.settings))
      line += fmt::format(" {} {}", flag_of(option), quoted(text));
  }
  return instead.empty() ? line : fmt::format("{} {}", line, instead);
}

}  // namespace strata::cli
