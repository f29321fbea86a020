// tests/serve/wait_until.h - waits for what a server comes to, no longer than a test's patience.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <chrono>
#include <thread>

#include "tests/tools/strata_process.h"

namespace strata::serve::testing {

/// Asks again and again. False, and the test has failed, where it has not become so in time.
template <class Condition>
bool wait_until(const Condition& is_so, std::chrono::milliseconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (!is_so()) {
    if (std::chrono::steady_clock::now() > end) {
      ADD_FAILURE() << "it has not become so within " << patience.count() << " ms";
      return false;
    }
    std::this_thread::yield();
  }
  return true;
}

/// Whether it runs no more; its exit code stays to be asked for.
inline bool has_ended(const cli::testing::StrataProcess& process) {
  siginfo_t ended = {};
  const int result =
      ::waitid(P_PID, static_cast<id_t>(process.id()), &ended, WEXITED | WNOHANG | WNOWAIT);
  return result == 0 && ended.si_pid == process.id();
}

/// The same of a process, which is read meanwhile: what it said is part of the failure, which
/// comes at once where the process has ended.
template <class Condition>
bool wait_until(cli::testing::StrataProcess& process, const Condition& is_so,
                std::chrono::milliseconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (!is_so()) {
    const bool is_over = has_ended(process);
    process.read_for(std::chrono::milliseconds(1));
    if (!is_over && std::chrono::steady_clock::now() <= end) continue;
    ADD_FAILURE() << "it has not become so "
                  << (is_over ? "before the process ended" : "in time, of a process that runs")
                  << "\n"
                  << process.err();
    return false;
  }
  return true;
}

}  // namespace strata::serve::testing
