#include "tools/cli/interrupt.h"

#include <poll.h>

#include <cerrno>
#include <csignal>

namespace strata::cli {
namespace {

// A signal between a look at the flag and a blocking call would be seen by neither, so such calls
// are short.
constexpr int kLookMs = 100;

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may touch it");

extern "C" void on_interrupt(int) { interrupted.store(true, std::memory_order_relaxed); }

}  // namespace

void catch_interrupts(SecondInterrupt second) {
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  action.sa_flags = second == SecondInterrupt::kEndsProgram ? static_cast<int>(SA_RESETHAND) : 0;
  sigaction(SIGINT, &action, nullptr);
  // A pipe without a reader and a file at its limit (ulimit -f) are errors that are reported.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
}

void catch_termination() {
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGTERM, &action, nullptr);
}

std::atomic<bool>& interrupt_flag() { return interrupted; }

bool wait_for_input(int descriptor, const std::function<void()>& on_pause) {
  constexpr int kLooksOfPause = 10;
  for (int look = 1;; ++look) {
    pollfd input = {descriptor, POLLIN, 0};
    const int n_ready = ::poll(&input, 1, kLookMs);
    if (interrupted.load()) return false;
    if (n_ready != 0 && !(n_ready < 0 && errno == EINTR)) return true;  // a fault shows in read()
    if (look == kLooksOfPause && on_pause) on_pause();
  }
}

}  // namespace strata::cli
