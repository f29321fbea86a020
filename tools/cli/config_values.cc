// Keys of a config file become texts that the table's own readers parse.
#include <fmt/format.h>

#include <toml++/toml.h>

#include "base/error.h"
#include "tools/cli/command_line.h"

namespace strata::cli {
namespace {

std::string place(const std::string& file, const toml::node& node, std::string_view key) {
  return fmt::format("{}:{}: {}", file, node.source().begin.line, key);
}

/// The text of a scalar as a user would have typed it after the flag.
std::string scalar_text(const toml::node& node, const std::string& where) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* number = node.as_integer()) return fmt::format("{}", number->get());
  if (const auto* real = node.as_floating_point()) return fmt::format("{}", real->get());
  if (const auto* flag = node.as_boolean()) return flag->get() ? "true" : "false";
  throw Error(ErrorCode::kUsage,
              "wanted a text, a number, true or false, or a list of texts, found another type",
              where, "write the value as it stands after the flag");
}

std::vector<std::string> node_texts(const OptionSpec& option, const toml::node& node,
                                    const std::string& where) {
  const toml::array* list = node.as_array();
  if (list == nullptr) return {scalar_text(node, where)};
  if (option.kind != ValueKind::kTextList && option.kind != ValueKind::kCountList) {
    throw Error(ErrorCode::kUsage, "wanted one value, found a list", where, "give one value");
  }
  std::vector<std::string> texts;
  for (const toml::node& element : *list) texts.push_back(scalar_text(element, where));
  return texts;
}

[[noreturn]] void refuse_key(std::string_view key, std::string_view table,
                             const std::string& where) {
  const OptionSpec* option = find_option(key);
  if (option != nullptr && option->sources == Sources::kEverywhere) {
    throw Error(ErrorCode::kUsage, fmt::format("key '{}' does not stand in [{}]", key, table),
                where, fmt::format("move it to [{}]", section_key(option->section)));
  }
  std::vector<std::string> known;
  for (const OptionSpec& candidate : option_table())
    if (candidate.sources == Sources::kEverywhere) known.emplace_back(candidate.name);
  const std::string near = nearest_word(key, known);
  throw Error(ErrorCode::kUsage, fmt::format("unknown key '{}' in [{}]", key, table), where,
              near.empty() ? "keys are the long names of `strata run --help`"
                           : fmt::format("did you mean {}?", near));
}

void read_section(const VerbSyntax& verb, Section section, const toml::table& table,
                  const std::string& file, RawValues& values) {
  for (const auto& [key, node] : table) {
    const std::string where = place(file, node, key.str());
    const OptionSpec* option = find_option(key.str());
    if (option == nullptr || option->section != section ||
        option->sources != Sources::kEverywhere) {
      refuse_key(key.str(), section_key(section), where);
    }
    std::vector<std::string> texts = node_texts(*option, node, where);
    if (texts.empty() || (option->verbs & verb.bit) == 0) continue;
    values[std::string(option->name)] = {std::move(texts), where};
  }
}

}  // namespace

RawValues values_from_config(const VerbSyntax& verb, std::string_view text,
                             const std::string& name) {
  RawValues values;
  try {
    const toml::table root = toml::parse(text, name);
    for (const auto& [key, node] : root) {
      const toml::table* table = node.as_table();
      bool known = false;
      for (const Section section : kSections) {
        if (table == nullptr || section_key(section) != key.str()) continue;
        read_section(verb, section, *table, name, values);
        known = true;
      }
      if (!known) {
        throw Error(ErrorCode::kUsage, fmt::format("unknown table or key '{}'", key.str()),
                    place(name, node, key.str()), fmt::format("tables are {}", section_list()));
      }
    }
  } catch (const toml::parse_error& error) {
    throw Error(ErrorCode::kUsage, fmt::format("not TOML: {}", error.description()),
                fmt::format("{}:{}", name, error.source().begin.line),
                "see https://toml.io for the syntax");
  }
  return values;
}

}  // namespace strata::cli
