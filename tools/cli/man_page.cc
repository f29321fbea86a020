#include "tools/cli/man_page.h"

#include <fmt/format.h>

#include <algorithm>

namespace strata::cli {
namespace {

/// Text that roff must not read as requests, escapes or hyphens that it may turn into dashes.
std::string roff(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool begins_line = out.empty() || out.back() == '\n';
    if (begins_line && (c == '.' || c == '\'')) out += "\\&";
    if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else if (c == '\'')
      out += "\\(aq";
    else
      out += c;
  }
  return out;
}

std::string flag_text(const OptionSpec& option) {
  auto names = option_flags(option);
  std::ranges::stable_sort(names, {},
                           [](const std::string& flag) { return flag.starts_with("--"); });
  std::string out;
  for (const std::string& name : names)
    out += fmt::format("{}\\fB{}\\fR", out.empty() ? "" : ", ", roff(name));
  if (!option.value_name.empty()) out += fmt::format(" \\fI{}\\fR", roff(option.value_name));
  return out;
}

/// Every fact of a row that the help leaves out or says in few words.
std::string option_facts(const OptionSpec& option) {
  std::string facts;
  if (option.kind != ValueKind::kFlag) {
    const std::string default_text =
        option.default_text.empty() ? "none" : std::string(option.default_text);
    facts = fmt::format("Value: {}. Default: {}.", wanted_text(option), default_text);
  }
  const auto add = [&](const std::string& fact) { facts += (facts.empty() ? "" : " ") + fact; };
  if (option.sources != Sources::kFlagOnly)
    add(fmt::format("Environment: {}.", environment_name(option)));
  if (option.sources == Sources::kEverywhere)
    add(fmt::format("Config file: [{}] {}.", section_key(option.section), option.name));
  return facts;
}

std::string option_paragraph(const OptionSpec& option) {
  const std::string facts = option_facts(option);
  std::string out = fmt::format(".TP\n{}\n{}.\n", flag_text(option), roff(option.help));
  if (!facts.empty()) out += fmt::format(".br\n{}\n", roff(facts));
  return out;
}

std::string title(const Verb* verb) {
  std::string name = man_page_name(verb);
  std::ranges::transform(name, name.begin(), [](char c) {
    return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  });
  // Without a date: a page that is built again from the same source has the same bytes.
  return fmt::format(".TH {} 1 \"\" \"{}\" \"User Commands\"\n", roff(name), version_text());
}

std::string name_section(const Verb* verb) {
  return fmt::format(
      ".SH NAME\n{} \\- {}\n", roff(man_page_name(verb)),
      roff(verb == nullptr ? "large language models with long contexts" : verb->summary));
}

std::string synopsis(std::string_view usage) {
  return fmt::format(".SH SYNOPSIS\n.B strata\n{}\n", roff(usage));
}

std::string options_section(const Verb& verb) {
  std::string out = ".SH OPTIONS\n";
  for (const Section section : kSections) {
    std::string rows;
    for (const OptionSpec& option : option_table())
      if (option.section == section && (option.verbs & verb.syntax.bit) != 0)
        rows += option_paragraph(option);
    if (!rows.empty()) out += fmt::format(".SS \"{}\"\n{}", roff(section_title(section)), rows);
  }
  return out;
}

constexpr std::string_view kSourcesSection =
    ".SH CONFIGURATION\n"
    "A flag comes before the environment, the environment before the config file, and that before "
    "the default. A switch \\fB\\-\\-name\\fR is undone with \\fB\\-\\-no\\-name\\fR.\n";

constexpr std::string_view kExitSection =
    ".SH EXIT STATUS\n"
    ".TP\n0\nAll went well.\n"
    ".TP\n1\nThe system failed: a disk, a device, a port.\n"
    ".TP\n2\nThe command line or the text is wrong.\n"
    ".TP\n3\nIt does not fit: the context, the memory.\n"
    ".TP\n4\nThe model file or a saved context is damaged or not supported.\n"
    ".TP\n130\nInterrupted.\n";

constexpr std::string_view kFilesSection =
    ".SH FILES\n"
    ".TP\n\\fI~/.config/strata/config.toml\\fR\n"
    "The config file, below \\fBXDG_CONFIG_HOME\\fR where that is set.\n"
    ".TP\n\\fI~/.local/share/strata/sessions\\fR\n"
    "Saved contexts, below \\fBXDG_DATA_HOME\\fR where that is set.\n"
    ".TP\n\\fI~/.cache/strata\\fR\n"
    "Spill files and profiles of the machine, below \\fBXDG_CACHE_HOME\\fR where that is set.\n";

std::string program_page() {
  std::string out = title(nullptr) + name_section(nullptr) + synopsis("VERB [options]");
  out +=
      ".SH DESCRIPTION\nStrata reads a model file and answers questions about long texts. Weights, "
      "K "
      "and V live in the memory of a device, in the machine's memory and on disk, where they bring "
      "most. Each verb has a page of its own.\n.SH VERBS\n";
  for (const Verb& verb : verbs())
    out += fmt::format(".TP\n\\fB{}\\fR\n{}; see \\fB{}\\fR(1).\n", roff(verb.syntax.name),
                       roff(verb.summary), roff(man_page_name(&verb)));
  return out + std::string(kFilesSection) + std::string(kExitSection);
}

std::string verb_page(const Verb& verb) {
  std::string out = title(&verb) + name_section(&verb) + synopsis(verb.usage);
  out += options_section(verb) + std::string(kSourcesSection) + std::string(kFilesSection) +
         std::string(kExitSection);
  return out + ".SH SEE ALSO\n\\fBstrata\\fR(1)\n";
}

}  // namespace

std::string man_page_name(const Verb* verb) {
  if (verb == nullptr) return "strata";
  std::string name = "strata-" + std::string(verb->syntax.name);
  std::ranges::replace(name, ' ', '-');
  return name;
}

std::string man_page(const Verb* verb) {
  return verb == nullptr ? program_page() : verb_page(*verb);
}

}  // namespace strata::cli
