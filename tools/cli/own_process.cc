#include "tools/cli/own_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "tools/cli/bench_fill.h"

extern "C" char** environ;

namespace strata::cli {
namespace {

constexpr const char* kSelf = "/proc/self/exe";
constexpr int kLookMs = 50;  // at the cancel flag, while the process runs

pid_t start(std::span<const std::string> arguments, const std::string& out_path) {
  std::vector<std::string> texts = {"strata"};
  texts.insert(texts.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  pointers.reserve(texts.size() + 1);
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out_path.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0600);
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, kSelf, &actions, nullptr, pointers.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0)
    throw Error(ErrorCode::kIo, fmt::format("cannot start a process: {}", std::strerror(error)),
                kSelf, "look at the limits of this user (ulimit -u)");
  return pid;
}

/// Its exit code; 128 and the signal's number where one ended it.
int wait_for_end(pid_t pid, const std::atomic<bool>* cancel) {
  // Where the system gives no descriptor of a process, only its end is waited for.
  const int descriptor = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  pollfd ended = {descriptor, POLLIN, 0};
  while (descriptor >= 0 && ::poll(&ended, 1, kLookMs) <= 0)
    if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) ::kill(pid, SIGKILL);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
  if (descriptor >= 0) ::close(descriptor);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string failure_of(const std::string& out, int exit_code) {
  const auto json = nlohmann::json::parse(out, nullptr, false);
  if (json.is_object() && json.contains("error"))
    return json["error"].value("message", "") + " [" + json["error"].value("where", "") + "]";
  return fmt::format("exit code {}", exit_code);
}

}  // namespace

EndedProcess run_own_process(std::span<const std::string> arguments, const std::string& out_path,
                             const std::atomic<bool>* cancel) {
  EndedProcess process;
  process.begin = std::chrono::steady_clock::now();
  const int exit_code = wait_for_end(start(arguments, out_path), cancel);
  check_bench_cancelled(cancel);
  std::ifstream file(out_path, std::ios::binary);
  process.out.assign(std::istreambuf_iterator<char>(file), {});
  if (exit_code == strata::exit_code(ErrorCode::kCancelled))
    throw Error(ErrorCode::kCancelled, "the bench was stopped", "strata bench");
  if (exit_code != 0)
    throw Error(ErrorCode::kIo,
                "the process that was to be measured failed: " + failure_of(process.out, exit_code),
                "strata bench");
  return process;
}

}  // namespace strata::cli
