#include "tools/cli/interrupt.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>

namespace strata::cli {
namespace {

// A signal between a look at the flag and a blocking call would be seen by neither, so such calls
// are short.
constexpr int kLookMs = 100;

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may touch it");

// Readable once somebody waits in vain; -1 = there is none, and waits are short.
std::atomic<int> wake_descriptor{-1};

extern "C" void on_interrupt(int) {
  const int error = errno;  // of the call that the signal has interrupted
  interrupted.store(true, std::memory_order_relaxed);
  wake_waiter();
  errno = error;
}

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
  if (wake_descriptor.load() < 0) wake_descriptor = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGTERM, &action, nullptr);
}

bool wait_for_interrupt() {
  if (interrupted.load()) return true;  // it may have come before there was anything to wake
  pollfd woken = {wake_descriptor.load(), POLLIN, 0};
  (void)::poll(&woken, 1, woken.fd < 0 ? kLookMs : -1);
  uint64_t n = 0;
  (void)!::read(woken.fd, &n, sizeof(n));
  return interrupted.load();
}

void wake_waiter() {
  const uint64_t one = 1;
  (void)!::write(wake_descriptor.load(), &one, sizeof(one));
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
