// tools/cli/program.h - the `strata` program without its main(): verbs, errors at the edge, exit
// codes.
#pragma once

#include <exception>
#include <span>
#include <string>

#include "tools/cli/command_line.h"

namespace strata::cli {

/// A verb (`run`), or a verb of a group (`session list`): its syntax, its help, and what runs it.
/// Returns the exit code; errors are thrown.
struct Verb {
  VerbSyntax syntax;
  std::string_view summary;  // one line of `strata --help`
  std::string_view usage;    // after "strata "
  int (*run)(const Command& command);
};

/// Every verb of the program (verbs.cc). A verb is added by a bit in option_table.h, its rows
/// there, and a row here.
std::span<const Verb> verbs();

/// Runs the program; `arguments` without its name. Never throws.
int run_program(std::span<const std::string> arguments, const GetVariable& get);

/// What an exception looks like to the user.
struct ErrorReport {
  std::string line;  // "error: WHAT [WHERE] (remedy: ...)"
  std::string json;  // {"error": {...}}
  int exit_code = 1;
};
ErrorReport report_error(const std::exception& error);
/// Says what report_error() says of std::bad_alloc, and takes no memory for it; the exit code.
int report_no_memory(bool json) noexcept;

std::string version_text();

}  // namespace strata::cli
