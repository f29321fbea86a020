// tools/cli/interrupt.h - Ctrl-C as a flag that loops look at between steps.
#pragma once

#include <atomic>

namespace strata::cli {

enum class SecondInterrupt : bool { kEndsProgram, kIsFlagToo };

/// Installs the handler; reads that wait for input are interrupted by it. With kEndsProgram a
/// second Ctrl-C ends the program at once, so that work between two looks at the flag cannot hold
/// the user. Also makes a closed pipe an error instead of a signal.
void catch_interrupts(SecondInterrupt second);

/// Set by Ctrl-C; the reader clears it.
std::atomic<bool>& interrupt_flag();

}  // namespace strata::cli
