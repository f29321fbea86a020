// tools/soak/hostile.h - hostile clients beside a good one: does the server live, answer the good
// one rightly, and have nothing left of the others at the end?
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "tools/soak/soak.h"

namespace strata::soak {

struct HostileOptions {
  uint64_t n_cases = 10000;
  uint64_t seed = 1;
  uint32_t n_threads = 8;  // that send cases; each asks a good question behind every tenth
  uint32_t n_slow = 16;    // clients that send a byte now and then, heads or bodies
  std::chrono::milliseconds slow_pause{100};
  // A slow client that the server has not ended after so long is a finding, and the run lasts until
  // each has been ended once. 0 = they are only there beside the others.
  std::chrono::milliseconds slow_patience{0};
};

struct HostileReport {
  uint64_t seed = 0, n_cases = 0, n_good = 0;  // n_good: good questions that were answered rightly
  uint64_t n_slow_ended = 0;                   // slow clients that the server has ended
  std::map<int, uint64_t> statuses;            // of first replies; 0 = none came
  double seconds = 0, cpu_s = 0;               // of the server
  uint64_t resident_start_bytes = 0, resident_max_bytes = 0, resident_end_bytes = 0;
  Findings findings;
};

/// Statuses of 5xx are findings, but for 501, 503 and 505, and so is a connection that the server
/// does not end. Errors: kIo (no server there, or no such process).
HostileReport run_hostile(const Target& target, const HostileOptions& options);

/// A table for people.
std::string text_of(const HostileReport& report);

}  // namespace strata::soak
