// tests/tools/strata_process.h - runs the `strata` binary of this build as a user does: arguments,
// environment, pipes or a terminal, signals. Why: exit codes, what goes to which stream and what a
// signal does exist only in the process.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace strata::cli::testing {

struct Outcome {
  int exit_code = -1;  // 128 + the signal's number where one ended the process, as shells say it
  std::string out, err;
  double cpu_s = 0;         // of all its threads, user and system
  uint64_t peak_bytes = 0;  // the largest resident size
};

/// The exit code of a process whose Launch::prepare threw.
inline constexpr int kNotPrepared = 125;

/// How the process begins. Variables of the caller named STRATA_* are not handed down, and the
/// config file's usual place is empty unless `environment` names it; nothing spills unasked.
struct Launch {
  std::vector<std::string> arguments;
  std::string input;                               // on standard input, which is a pipe
  std::map<std::string, std::string> environment;  // added
  bool has_input = false;                          // else standard input is /dev/null
  bool closes_output = false;                      // standard output is closed
  std::string output_path;                         // standard output is this file
  uint64_t address_space_bytes = 0;                // RLIMIT_AS; 0 = none
  std::function<void()> prepare;                   // called in the child before it is the program
};

/// Runs to the end.
Outcome run_strata(const Launch& launch);
Outcome run_strata(const std::vector<std::string>& arguments);

/// A process one talks to.
class StrataProcess {
 public:
  /// Standard input: the null device, a pipe, or a terminal that is standard error as well.
  enum class Input : uint8_t { kNone, kPipe, kTerminal };
  StrataProcess(const std::vector<std::string>& arguments, Input input,
                const std::map<std::string, std::string>& environment = {});
  ~StrataProcess();
  StrataProcess(const StrataProcess&) = delete;
  StrataProcess& operator=(const StrataProcess&) = delete;

  void send(std::string_view text);
  void interrupt() { signal(SIGINT); }
  void signal(int number);
  pid_t id() const { return pid_; }
  /// CPU seconds of all its threads so far.
  double cpu_s() const;
  /// Reads for so long, or until both streams have ended.
  void read_for(std::chrono::milliseconds duration);
  /// As a reader that goes away: `strata ... | head -1`.
  void close_out();
  /// Reads until this stream's text since the last call holds `text`; false where the process ended
  /// before.
  bool wait_for_out(std::string_view text) { return wait_for(outcome_.out, out_seen_, text); }
  bool wait_for_err(std::string_view text) { return wait_for(outcome_.err, err_seen_, text); }
  /// What standard error has held so far.
  const std::string& err() const { return outcome_.err; }
  /// Ends standard input (a pipe), reads everything, waits for the end.
  Outcome finish();

 private:
  bool wait_for(const std::string& stream, size_t& seen, std::string_view text);
  bool read_more();
  bool read_once(int timeout_ms);
  pid_t pid_ = -1;
  int in_ = -1, out_ = -1, err_ = -1;  // in_ == err_: the terminal's side of ours
  Outcome outcome_;
  size_t out_seen_ = 0, err_seen_ = 0;
};

/// True in builds whose sanitizer reserves terabytes of addresses, where no limit of them makes
/// sense.
bool address_space_is_reserved();

}  // namespace strata::cli::testing
