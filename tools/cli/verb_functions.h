// tools/cli/verb_functions.h - the verbs that verbs.cc lists, one source file each.
#pragma once

#include "tools/cli/command_line.h"

namespace strata::cli {

inline constexpr VerbSyntax kRunSyntax = {"run", kRun, ""};
inline constexpr VerbSyntax kChatSyntax = {"chat", kChat, ""};
inline constexpr VerbSyntax kInspectSyntax = {"inspect", kInspect, "model"};
inline constexpr VerbSyntax kBenchSyntax = {"bench", kBench, ""};
inline constexpr VerbSyntax kTokenizeSyntax = {"tokenize", kTokenize, ""};

/// Each returns the exit code. Errors are thrown.
int run_run(const Command& command);
int run_chat(const Command& command);
int run_inspect(const Command& command);
int run_tokenize(const Command& command);
int run_bench(const Command& command);

}  // namespace strata::cli
