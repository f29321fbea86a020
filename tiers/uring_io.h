// tiers/uring_io.h - transfers through the kernel's io_uring.
// Why: one system call starts and collects many transfers, and no thread sleeps in each of them.
#pragma once

#include <memory>

#include "tiers/io.h"

namespace strata::tiers {

enum class UringSetup : uint8_t {
  kSingleIssuer,  // the kernel runs completions when asked to, on the one thread (Linux 6.1), else
                  // kPlain
  kPlain,         // as on older kernels
};

/// 1 <= depth <= kMaxIoDepth. A tiny ring is tried before: one that the kernel gives but that
/// cannot run an operation is refused too. prepare_memory registers in pieces of at most 1 GiB (the
/// kernel's limit) and halves them where the limit on locked memory is hit; a transfer across two
/// pieces, or outside of them, works unregistered. Allocates at opening, in prepare_memory and in
/// add_file only.
/// Errors: kIo, with what the system refused.
std::unique_ptr<Io> open_uring_io(uint32_t depth, UringSetup setup = UringSetup::kSingleIssuer);

}  // namespace strata::tiers
