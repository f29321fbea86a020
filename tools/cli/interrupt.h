// tools/cli/interrupt.h - Ctrl-C as a flag that loops look at between steps.
#pragma once

#include <atomic>
#include <functional>

namespace strata::cli {

enum class SecondInterrupt : bool { kEndsProgram, kIsFlagToo };

/// Installs the handler; reads that wait for input are interrupted by it. With kEndsProgram a
/// second Ctrl-C ends the program at once, so that work between two looks at the flag cannot hold
/// the user. Also makes a closed pipe and a file at its size limit errors instead of signals.
void catch_interrupts(SecondInterrupt second);

/// SIGTERM sets the flag as well; a second one ends the program at once.
void catch_termination();

/// Waits for Ctrl-C, or SIGTERM where it is caught: true. False where wake_waiter() was called
/// since the last wait, or for no reason: the caller looks and waits again.
bool wait_for_interrupt();
/// From any thread.
void wake_waiter();

/// Set by Ctrl-C; the reader clears it.
std::atomic<bool>& interrupt_flag();

/// Waits until `descriptor` has something to read or has ended; false where Ctrl-C came first, also
/// where it came just before. `on_pause` is called once where nothing has come for a second.
bool wait_for_input(int descriptor, const std::function<void()>& on_pause = {});

}  // namespace strata::cli
