// tools/cli/own_process.h - this program again, in a process of its own.
#pragma once

#include <atomic>
#include <chrono>
#include <span>
#include <string>

namespace strata::cli {

/// How a process began, and what it has left.
struct EndedProcess {
  std::chrono::steady_clock::time_point begin;  // just before it was started
  std::string out;                              // all of its standard output
};

/// Starts this program with `arguments` and waits for its end; standard error is shared, standard
/// output goes to the file `out_path`, which is made. Errors: kIo, also where the process failed,
/// with what it said; kCancelled where the flag is set, or Ctrl-C has ended the process.
EndedProcess run_own_process(std::span<const std::string> arguments, const std::string& out_path,
                             const std::atomic<bool>* cancel);

}  // namespace strata::cli
