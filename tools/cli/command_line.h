// tools/cli/command_line.h - from arguments, environment and config file to settings: flag >
// STRATA_* > file > default.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tools/cli/option_table.h"

namespace strata::cli {

/// A verb's part of the command line.
struct VerbSyntax {
  std::string_view name;  // "run", or two words: "session list"
  VerbSet bit;
  /// Name of the option whose values may stand alone ("model" for `inspect FILE`), or "": one
  /// value, or any number where it is a list.
  std::string_view positional;
};

/// Texts of one option from one source, and how a message names that place ("--temp",
/// "STRATA_TEMP", "config.toml:3: temp").
struct RawValue {
  std::vector<std::string> texts;
  std::string where;
};
using RawValues = std::map<std::string, RawValue, std::less<>>;  // by option name

/// Errors: kUsage (unknown, of another verb, value missing, stray argument), each with what was
/// perhaps meant.
RawValues values_from_arguments(const VerbSyntax& verb, std::span<const std::string> arguments);

/// Reads the STRATA_* names of the verb's options with `get` (getenv in the program).
using GetVariable = std::function<std::optional<std::string>(const std::string& name)>;
RawValues values_from_environment(const VerbSyntax& verb, const GetVariable& get);

/// Parses a config file's text; `name` is how messages call it. Keys of other verbs' options are
/// allowed and left out. Errors: kUsage (not TOML, unknown key or table, a type that no option
/// has).
RawValues values_from_config(const VerbSyntax& verb, std::string_view text,
                             const std::string& name);

/// What the verb runs with.
struct Command {
  Settings settings;
  std::map<std::string, std::string, std::less<>>
      origins;  // option name -> where it was set; absent = default

  bool is_set(std::string_view option) const { return origins.contains(option); }
  /// Where a message should point: the origin, or "--NAME" where the option has its default.
  std::string where(std::string_view option) const;
};

/// Merges sources, strongest first, over the defaults. Errors: kUsage.
Command merge_values(std::span<const RawValues> strongest_first);

/// All of the above; the config file is --config, STRATA_CONFIG or the default path. Errors:
/// kUsage, kIo (--config unreadable).
Command read_command(const VerbSyntax& verb, std::span<const std::string> arguments,
                     const GetVariable& get);

/// Contradictions that no single option shows. Errors: kUsage.
void check_command(const VerbSyntax& verb, const Command& command);

}  // namespace strata::cli
