#include "tests/tools/strata_process.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fstream>

#include "tests/engine/test_folder.h"
#include "tests/sanitizer.h"
#include "tests/tree_paths.h"

extern char** environ;

namespace strata::cli::testing {
namespace {

constexpr int kPatienceMs = 60'000;  // beyond this the process hangs: it is ended, the test fails

/// Looked up before a process forks.
const std::string& program_path() {
  static const std::string path = build_path("tools/strata");
  return path;
}

std::vector<std::string> child_environment(const std::map<std::string, std::string>& added) {
  std::map<std::string, std::string> variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const size_t equals = text.find('=');
    if (!text.starts_with("STRATA_")) variables[text.substr(0, equals)] = text.substr(equals + 1);
  }
  variables["XDG_CONFIG_HOME"] = "/nonexistent";
  variables["XDG_CACHE_HOME"] = "/nonexistent";  // profiles of this machine and verdicts on models
  variables["STRATA_NO_CACHE"] = "1";            // a run must not find what an earlier one has read
  variables["STRATA_NVME"] = "off";  // no test spills into the user's cache folder unasked
  for (const auto& [name, value] : added) variables[name] = value;
  std::vector<std::string> out;
  for (const auto& [name, value] : variables) out.push_back(name + "=" + value);
  return out;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (std::string& text : texts) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

struct Streams {
  int in = -1, out = -1, err = -1;  // -1: closed in the child
  bool is_terminal = false;
  uint64_t address_space_bytes = 0;
  std::function<void()> prepare;
};

/// Everything the child needs is made before fork(): behind it only system calls.
pid_t start(const std::vector<std::string>& arguments,
            const std::map<std::string, std::string>& environment, const Streams& streams) {
  std::vector<std::string> words = arguments;
  words.insert(words.begin(), program_path());
  std::vector<std::string> variables = child_environment(environment);
  const auto argv = pointers(words);
  const auto envp = pointers(variables);
  // What this process does on Ctrl-C, or a shell that began it with Ctrl-C ignored, is not the
  // child's; a signal that comes at once waits until that is so.
  sigset_t signals, before;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGINT);
  ::sigprocmask(SIG_BLOCK, &signals, &before);
  const pid_t pid = ::fork();
  if (pid == 0) ::signal(SIGINT, SIG_DFL);
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  if (pid != 0) return pid;
  if (streams.is_terminal) {
    ::setsid();
    ::ioctl(streams.in, TIOCSCTTY, 0);
  }
  const std::array<int, 3> of = {streams.in, streams.out, streams.err};
  for (int i = 0; i < 3; ++i) {
    if (of[static_cast<size_t>(i)] < 0)
      ::close(i);
    else
      ::dup2(of[static_cast<size_t>(i)], i);
  }
  if (streams.address_space_bytes > 0) {
    const rlimit limit{streams.address_space_bytes, streams.address_space_bytes};
    ::setrlimit(RLIMIT_AS, &limit);
  }
  try {
    if (streams.prepare) streams.prepare();
  } catch (...) {
    ::_exit(kNotPrepared);
  }
  ::execve(program_path().c_str(), argv.data(), envp.data());
  ::_exit(127);
}

/// Ends of a pipe that a child started later does not inherit.
std::array<int, 2> make_pipe() {
  std::array<int, 2> ends{};
  EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  return ends;
}

int exit_code_of(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/// Waits for the end of a child.
void wait_for_end(pid_t pid, Outcome& outcome) {
  int status = 0;
  rusage used = {};
  EXPECT_EQ(::wait4(pid, &status, 0, &used), pid);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  outcome.exit_code = exit_code_of(status);
  outcome.cpu_s = seconds(used.ru_utime) + seconds(used.ru_stime);
  outcome.peak_bytes = static_cast<uint64_t>(used.ru_maxrss) << 10;
}

void close_and_forget(int& descriptor) {
  if (descriptor >= 0) ::close(descriptor);
  descriptor = -1;
}

}  // namespace

Outcome run_strata(const std::vector<std::string>& arguments) {
  Launch launch;
  launch.arguments = arguments;
  return run_strata(launch);
}

Outcome run_strata(const Launch& launch) {
  // Files take any length without anybody reading beside; the input is written before the start.
  const engine::testing::TestFolder folder;
  const std::string out_path =
      launch.output_path.empty() ? folder.write("out", "") : launch.output_path;
  const std::string err_path = folder.write("err", "");
  Streams streams;
  std::array<int, 2> input = make_pipe();
  int null_input = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  streams.in = launch.has_input ? input[0] : null_input;
  if (!launch.closes_output) streams.out = ::open(out_path.c_str(), O_WRONLY | O_CLOEXEC);
  streams.err = ::open(err_path.c_str(), O_WRONLY | O_CLOEXEC);
  streams.address_space_bytes = launch.address_space_bytes;
  streams.prepare = launch.prepare;
  EXPECT_LT(launch.input.size(), 65536u) << "a pipe holds no more while nobody reads";
  EXPECT_EQ(::write(input[1], launch.input.data(), launch.input.size()),
            static_cast<ssize_t>(launch.input.size()));
  close_and_forget(input[1]);
  const pid_t pid = start(launch.arguments, launch.environment, streams);
  for (int* end : {&input[0], &null_input, &streams.out, &streams.err}) close_and_forget(*end);
  Outcome outcome;
  wait_for_end(pid, outcome);
  const auto text_of = [](const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  if (launch.output_path.empty()) outcome.out = text_of(out_path);
  outcome.err = text_of(err_path);
  return outcome;
}

StrataProcess::StrataProcess(const std::vector<std::string>& arguments, Input input,
                             const std::map<std::string, std::string>& environment) {
  ::signal(SIGPIPE, SIG_IGN);
  Streams streams;
  std::array<int, 2> out = make_pipe();
  std::array<int, 2> in = {-1, -1}, err = {-1, -1};
  const bool is_terminal = input == Input::kTerminal;
  if (is_terminal) {
    in_ = err_ = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    EXPECT_GE(in_, 0);
    EXPECT_EQ(::grantpt(in_) + ::unlockpt(in_), 0);
    in[0] = err[1] = ::open(::ptsname(in_), O_RDWR | O_NOCTTY | O_CLOEXEC);
    EXPECT_GE(in[0], 0);
  } else {
    err = make_pipe();
    err_ = err[0];
    if (input == Input::kPipe)
      in = make_pipe();
    else
      in[0] = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    in_ = in[1];
  }
  out_ = out[0];
  streams.in = in[0];
  streams.out = out[1];
  streams.err = err[1];
  streams.is_terminal = is_terminal;
  std::map<std::string, std::string> added = environment;
  added.emplace("TERM", "xterm");
  pid_ = start(arguments, added, streams);
  close_and_forget(in[0]);
  close_and_forget(out[1]);
  if (!is_terminal) close_and_forget(err[1]);
}

StrataProcess::~StrataProcess() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  if (in_ != err_) close_and_forget(in_);
  close_and_forget(err_);
  close_and_forget(out_);
}

void StrataProcess::send(std::string_view text) {
  EXPECT_EQ(::write(in_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
}

void StrataProcess::close_out() { close_and_forget(out_); }

void StrataProcess::signal(int number) { EXPECT_EQ(::kill(pid_, number), 0); }

double StrataProcess::cpu_s() const {
  std::ifstream stat("/proc/" + std::to_string(pid_) + "/stat");
  std::string field;
  double ticks = 0;
  // The name of the program is one word; fields 14 and 15 are user and system time.
  for (int i = 1; i <= 15 && stat >> field; ++i)
    if (i >= 14) ticks += std::stod(field);
  return ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

void StrataProcess::read_for(std::chrono::milliseconds duration) {
  const auto end = std::chrono::steady_clock::now() + duration;
  for (;;) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    if (left.count() <= 0 || (out_ < 0 && err_ < 0)) return;
    read_once(static_cast<int>(left.count()));
  }
}

/// False where both streams have ended.
bool StrataProcess::read_more() {
  if (out_ < 0 && err_ < 0) return false;
  if (!read_once(kPatienceMs)) {
    ADD_FAILURE() << "the process says nothing any more; so far: " << outcome_.out << "\n"
                  << outcome_.err;
    ::kill(pid_, SIGKILL);
    return false;
  }
  return out_ >= 0 || err_ >= 0;
}

/// False where nothing came in time.
bool StrataProcess::read_once(int timeout_ms) {
  std::array<pollfd, 2> ready = {pollfd{out_, POLLIN, 0}, pollfd{err_, POLLIN, 0}};
  if (::poll(ready.data(), ready.size(), timeout_ms) <= 0) return false;
  const auto take = [](pollfd& from, int& descriptor, std::string& text) {
    if (from.revents == 0) return;
    std::array<char, 4096> part{};
    const ssize_t n = ::read(descriptor, part.data(), part.size());
    if (n > 0)
      text.append(part.data(), static_cast<size_t>(n));
    else
      close_and_forget(descriptor);  // a terminal ends with EIO
  };
  const bool is_terminal = in_ == err_;
  take(ready[0], out_, outcome_.out);
  take(ready[1], err_, outcome_.err);
  if (is_terminal) in_ = err_;
  return true;
}

bool StrataProcess::wait_for(const std::string& stream, size_t& seen, std::string_view text) {
  for (;;) {
    const size_t at = stream.find(text, seen);
    if (at != std::string::npos) {
      seen = at + text.size();
      return true;
    }
    if (!read_more()) return false;
  }
}

Outcome StrataProcess::finish() {
  if (in_ != err_) close_and_forget(in_);
  while (read_more()) {
  }
  wait_for_end(pid_, outcome_);
  pid_ = -1;
  return outcome_;
}

bool address_space_is_reserved() { return sanitizer::kAny; }

}  // namespace strata::cli::testing
