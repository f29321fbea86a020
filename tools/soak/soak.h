// tools/soak/soak.h - many streaming clients at once, for a time: is every answer the one that a
// lone client got, and does the server keep its size?
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace strata::soak {

/// The server that is tried, on this machine.
struct Target {
  uint16_t port = 0;
  pid_t process = 0;
  std::chrono::milliseconds patience{120000};  // how long it may say nothing to a client
};

/// What was found wrong: the first lines in full, of the others the number.
class Findings {
 public:
  void add(std::string line);
  uint64_t count() const { return count_; }
  const std::vector<std::string>& lines() const { return lines_; }

 private:
  static constexpr size_t kLinesMax = 20;
  uint64_t count_ = 0;
  std::vector<std::string> lines_;
};

struct SoakOptions {
  uint32_t n_clients = 100;
  std::chrono::milliseconds duration{600000};
  uint64_t seed = 1;
  // Half of the clients ask the common questions again and again, the others the rare ones. Of five
  // clients one leaves every second answer in its middle, and one reads slowly.
  uint32_t n_common = 8, n_rare = 120;
  uint32_t n_words_max = 160, n_tokens_max = 64;
  std::chrono::milliseconds slow_pause{50};
  // The run goes on past the duration until every client has asked so many questions to their end.
  uint32_t n_each_min = 0;
  // From here on the server's resident size may grow by 2 % at most; a run that is not twice as
  // long judges no size.
  std::chrono::milliseconds settles{60000};
};

struct SoakReport {
  uint64_t seed = 0;
  uint64_t answers = 0, tokens = 0, left = 0, busy = 0;  // busy: replies of status 429
  uint64_t distinct_answers = 0;                         // of lone clients, of all questions
  double seconds = 0, cpu_s = 0;                         // of the server, after the lone answers
  double first_token_p50_s = 0, first_token_p95_s = 0;   // of clients that read as fast as it comes
  double token_p50_s = 0, token_p95_s = 0;               // means of answers, behind the first
  uint64_t resident_start_bytes = 0, resident_settled_bytes = 0, resident_end_bytes = 0;
  uint64_t resident_max_bytes = 0;  // after it has settled
  bool is_size_judged = false;
  Findings findings;
};

/// Blocks for the duration and for what the lone answers take. Only 429 is taken for an answer that
/// is none, and is asked again after Retry-After. At the end no order may be at work and no
/// connection's thread left. Errors: kIo (no server there, or no such process).
SoakReport run_soak(const Target& target, const SoakOptions& options);

/// A table for people.
std::string text_of(const SoakReport& report);

/// Waits until the server has no more threads than `n_threads` and no order waits or is at work;
/// nothing, or what is still there after the target's patience.
std::string wait_until_idle(const Target& target, uint32_t n_threads);

}  // namespace strata::soak
