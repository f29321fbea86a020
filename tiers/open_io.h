// tiers/open_io.h - the back end that this machine allows.
#pragma once

#include <memory>
#include <string>

#include "tiers/io.h"

namespace strata::tiers {

enum class IoChoice : uint8_t {
  kAuto,     // a ring; threads where the system gives none
  kUring,    // a ring, or an error
  kThreads,  // threads that call pread and pwrite
};

/// 1 <= depth <= kMaxIoDepth. `notice` becomes one line for the user where kAuto had to take
/// threads, else empty. Errors: kIo (kUring alone), kOutOfMemory.
std::unique_ptr<Io> open_io(IoChoice choice, uint32_t depth, std::string& notice);

}  // namespace strata::tiers
