// tests/tiers/child_process.h - code that runs in a child, where it may be forbidden system calls,
// lose its rights or be killed, and the rest of the tests are not touched.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

namespace strata::tiers {

/// Thrown in a child: what the environment does not allow here. The test prints it and is skipped.
struct NotPossibleHere : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Throws std::runtime_error where `condition` is false; a child has no EXPECT.
void demand(bool condition, const std::string& what);

/// Runs `body` in a child and returns "" where it returned, "SKIP reason" for NotPossibleHere, else
/// what went wrong.
std::string run_in_child(const std::function<void()>& body);

/// From now on the system call fails with error_number in this process. With a mask: only where
/// argument `argument` has one of its bits.
void forbid_call(long call, int error_number, unsigned argument = 0, uint32_t mask = 0);

/// From now on another thread is asked before each such call of this one, the n-th from 0: for the
/// errno that the call fails with, or 0. For a child, which ends without waiting for that thread.
void ask_before_call(long call, std::function<int(uint64_t n)> error_number);

/// This process becomes the user nobody, and its limit on locked memory the given one.
void become_nobody(uint64_t locked_bytes);

/// EXPECTs that a child's report is "", or skips the test with its reason.
#define STRATA_EXPECT_CHILD_PASSES(report)                                         \
  do {                                                                             \
    const std::string child_report = (report);                                     \
    if (child_report.starts_with("SKIP ")) GTEST_SKIP() << child_report.substr(5); \
    EXPECT_EQ(child_report, "");                                                   \
  } while (false)

}  // namespace strata::tiers
