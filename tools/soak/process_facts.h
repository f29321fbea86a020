// tools/soak/process_facts.h - what Linux says of a process that runs.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace strata::soak {

struct ProcessFacts {
  uint64_t resident_bytes = 0;
  uint32_t n_threads = 0;
  double cpu_s = 0;  // of all its threads so far, user and system
};

/// Errors: kIo (there is no such process, or it is not ours).
ProcessFacts process_facts(pid_t process);

}  // namespace strata::soak
