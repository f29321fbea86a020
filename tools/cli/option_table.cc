#include "tools/cli/option_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/error.h"
#include "tools/cli/value_readers.h"

namespace strata::cli {
namespace {

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    parts.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parts;
}

std::string number_text(double value) {
  return std::abs(value) < 1e15 && value == std::floor(value) ? fmt::format("{:.0f}", value)
                                                              : fmt::format("{}", value);
}

std::string range_text(const OptionSpec& option) {
  if (option.min < -1e300) return fmt::format("at most {}", number_text(option.max));
  return fmt::format("from {} to {}", number_text(option.min), number_text(option.max));
}

bool in_range(const OptionSpec& option, double value) {
  return value >= option.min && value <= option.max;
}

template <class T>
void store(const OptionSpec& option, Settings& settings, T value) {
  T Settings::*const* member = std::get_if<T Settings::*>(&option.target);
  STRATA_CHECK(member != nullptr, "--%s: kind and member differ", option.name.data());
  settings.*(*member) = std::move(value);
}

/// Appends the counts of one text, "512,4k"; false where one is not a count of this option.
bool append_counts(const OptionSpec& option, std::string_view text, std::vector<uint64_t>& counts) {
  for (;;) {
    const size_t end = std::min(text.find(','), text.size());
    const auto value = read_count(text.substr(0, end));
    if (!value || !in_range(option, static_cast<double>(*value))) return false;
    counts.push_back(*value);
    if (end == text.size()) return true;
    text.remove_prefix(end + 1);
  }
}

/// Reads one text; false where it is not a value of this option.
bool store_text(const OptionSpec& option, const std::string& text, Settings& settings) {
  switch (option.kind) {
    case ValueKind::kFlag: {
      const auto value = read_switch(text);
      if (value) store(option, settings, *value);
      return value.has_value();
    }
    case ValueKind::kText:
      store(option, settings, text);
      return true;
    case ValueKind::kTextList:
      store(option, settings, std::vector<std::string>{text});
      return true;
    case ValueKind::kChoice: {
      const auto choices = split(option.value_name, '|');
      if (std::ranges::find(choices, text) == choices.end()) return false;
      store(option, settings, text);
      return true;
    }
    case ValueKind::kCount:
    case ValueKind::kSize: {
      const auto value = option.kind == ValueKind::kSize ? read_size(text) : read_count(text);
      if (!value || !in_range(option, static_cast<double>(*value))) return false;
      store(option, settings, *value);
      return true;
    }
    case ValueKind::kCountList: {
      std::vector<uint64_t> counts;
      if (!append_counts(option, text, counts)) return false;
      store(option, settings, std::move(counts));
      return true;
    }
    case ValueKind::kInteger: {
      const auto value = read_integer(text);
      if (!value || !in_range(option, static_cast<double>(*value))) return false;
      store(option, settings, *value);
      return true;
    }
    case ValueKind::kReal:
    case ValueKind::kDuration: {
      const auto value = option.kind == ValueKind::kReal ? read_real(text) : read_duration_ms(text);
      if (!value || !in_range(option, *value)) return false;
      store(option, settings, *value);
      return true;
    }
  }
  return false;
}

/// Breaks help into lines of at most `width` columns.
std::vector<std::string> wrap(std::string_view text, size_t width) {
  std::vector<std::string> lines(1);
  for (const std::string& word : split(text, ' ')) {
    if (!lines.back().empty() && lines.back().size() + 1 + word.size() > width)
      lines.emplace_back();
    lines.back() += (lines.back().empty() ? "" : " ") + word;
  }
  return lines;
}

std::string option_help_line(const OptionSpec& option) {
  std::string flags;
  auto names = option_flags(option);
  std::ranges::stable_sort(names, {},
                           [](const std::string& flag) { return flag.starts_with("--"); });
  for (const std::string& flag : names) flags += (flags.empty() ? "" : ", ") + flag;
  if (!option.value_name.empty()) flags += fmt::format(" {}", option.value_name);
  std::string text(option.help);
  const bool says_default = option.kind != ValueKind::kFlag && !option.default_text.empty() &&
                            option.default_text != "0" && option.default_text != "-1";
  if (says_default) text += fmt::format(" [{}]", option.default_text);
  constexpr size_t kTextColumn = 34;
  std::string out = "  " + flags;
  if (out.size() + 2 > kTextColumn)
    out += "\n" + std::string(kTextColumn, ' ');
  else
    out.resize(kTextColumn, ' ');
  const auto lines = wrap(text, 100 - kTextColumn);
  for (size_t i = 0; i < lines.size(); ++i)
    out += (i == 0 ? "" : std::string(kTextColumn, ' ')) + lines[i] + "\n";
  return out;
}

/// Insertions, deletions, substitutions and swaps of neighbours between two words (optimal string
/// alignment).
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> rows(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) rows[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) rows[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = rows[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      rows[i][j] = std::min({rows[i - 1][j] + 1, rows[i][j - 1] + 1, change});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) rows[i][j] = std::min(rows[i][j], rows[i - 2][j - 2] + 1);
    }
  }
  return rows[a.size()][b.size()];
}

}  // namespace

const OptionSpec* find_option(std::string_view name) {
  for (const OptionSpec& option : option_table())
    if (option.name == name) return &option;
  return nullptr;
}

const OptionSpec* find_flag(std::string_view flag, VerbSet verbs) {
  for (const OptionSpec& option : option_table()) {
    if ((option.verbs & verbs) == 0) continue;
    for (const std::string& known : option_flags(option))
      if (known == flag) return &option;
  }
  return nullptr;
}

std::vector<std::string> option_flags(const OptionSpec& option) {
  std::vector<std::string> flags = {"--" + std::string(option.name)};
  for (std::string& alias : split(option.aliases, ',')) flags.push_back(std::move(alias));
  return flags;
}

std::string environment_name(const OptionSpec& option) {
  std::string name = "STRATA_";
  for (const char c : option.name)
    name += c == '-' ? '_' : static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return name;
}

std::string_view section_key(Section section) {
  switch (section) {
    case Section::kModel:
      return "model";
    case Section::kRope:
      return "rope";
    case Section::kPrompt:
      return "prompt";
    case Section::kSampling:
      return "sampling";
    case Section::kTests:
      return "bench";
    case Section::kJudging:
      return "eval";
    case Section::kSaved:
      return "saved";
    case Section::kServing:
      return "serve";
    case Section::kOutput:
      return "output";
  }
  return "";
}

std::string_view section_title(Section section) {
  switch (section) {
    case Section::kModel:
      return "Model and memory";
    case Section::kRope:
      return "RoPE (where the model file should not decide)";
    case Section::kPrompt:
      return "Prompt and answer";
    case Section::kSampling:
      return "Sampling";
    case Section::kTests:
      return "Tests";
    case Section::kJudging:
      return "Evaluation";
    case Section::kSaved:
      return "Saved contexts";
    case Section::kServing:
      return "Server";
    case Section::kOutput:
      return "Output and command";
  }
  return "";
}

std::string section_list() {
  std::string out;
  for (const Section section : kSections) {
    if (section == kSections[std::size(kSections) - 1])
      out += " and ";
    else if (!out.empty())
      out += ", ";
    out += fmt::format("[{}]", section_key(section));
  }
  return out;
}

std::string wanted_text(const OptionSpec& option) {
  switch (option.kind) {
    case ValueKind::kFlag:
      return "true or false";
    case ValueKind::kText:
    case ValueKind::kTextList:
      return "a text";
    case ValueKind::kChoice: {
      std::string choices;
      for (const std::string& choice : split(option.value_name, '|'))
        choices += (choices.empty() ? "" : " or ") + choice;
      return choices;
    }
    case ValueKind::kCount:
      return fmt::format("a count {} (k = 1024)", range_text(option));
    case ValueKind::kCountList:
      return fmt::format("counts {}, such as 512,4k (k = 1024)", range_text(option));
    case ValueKind::kInteger:
      return fmt::format("a whole number {}", range_text(option));
    case ValueKind::kReal:
      return fmt::format("a number {}", range_text(option));
    case ValueKind::kSize:
      return "a size such as 512MiB or 1.5GiB (at most 64TiB)";
    case ValueKind::kDuration:
      return "a time such as 30s, 1500ms or 2min";
  }
  return "";
}

void store_option(const OptionSpec& option, std::span<const std::string> texts,
                  const std::string& where, Settings& settings) {
  STRATA_CHECK(!texts.empty(), "--%s has no value", option.name.data());
  if (option.kind == ValueKind::kTextList) {
    store(option, settings, std::vector<std::string>(texts.begin(), texts.end()));
    return;
  }
  if (option.kind == ValueKind::kCountList && texts.size() > 1) {  // -p 512 -p 4k is -p 512,4k
    store_option(option, std::vector<std::string>{fmt::format("{}", fmt::join(texts, ","))}, where,
                 settings);
    return;
  }
  if (store_text(option, texts.back(), settings)) return;
  constexpr size_t kShown = 40;
  std::string found = texts.back().substr(0, kShown);
  if (texts.back().size() > kShown) found += "...";
  throw Error(ErrorCode::kUsage, fmt::format("wanted {}, found '{}'", wanted_text(option), found),
              where, "see `strata VERB --help`");
}

Settings default_settings() {
  Settings settings;
  for (const OptionSpec& option : option_table()) {
    if (option.default_text.empty()) continue;
    const std::string text(option.default_text);
    store_option(option, std::span(&text, 1), "default of --" + std::string(option.name), settings);
  }
  return settings;
}

std::string options_help(VerbSet verb) {
  std::string out;
  for (const Section section : kSections) {
    std::string lines;
    for (const OptionSpec& option : option_table())
      if (option.section == section && (option.verbs & verb) != 0)
        lines += option_help_line(option);
    if (!lines.empty()) out += fmt::format("\n{}:\n{}", section_title(section), lines);
  }
  return out;
}

std::string nearest_word(std::string_view word, std::span<const std::string> candidates) {
  // Beyond a third of the word it is another word, not a slip; long words are cut so that hostile
  // input stays cheap.
  if (word.size() > 40) return "";
  const size_t tolerated = std::max<size_t>(1, word.size() / 3);
  std::string best;
  size_t best_distance = tolerated + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace strata::cli
