// tools/soak/questions.h - prompts, and how a client asks one and takes its streamed answer.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "tools/soak/socket_client.h"

namespace strata::soak {

/// A body for /v1/completions: streamed, at temperature 0, with its usage.
std::string question_body(const std::string& prompt, uint32_t n_tokens);

/// Bodies of drawn words. About half of them begin as an earlier one does, so that a server that
/// shares beginnings has something to share; lengths are 8 to `n_words_max` words, answers 8 to
/// `n_tokens_max` tokens. The same for the same seed.
std::vector<std::string> drawn_questions(uint64_t seed, size_t n, uint32_t n_words_max,
                                         uint32_t n_tokens_max);

/// How a client behaves.
struct Manner {
  uint32_t leaves_after = UINT32_MAX;  // events that it takes before it leaves
  std::chrono::milliseconds pause{0};  // before it takes the next event
};

struct StreamedAnswer {
  int status = 0;  // 0 = the connection ended before
  std::string text, finish_reason;
  std::string refusal;    // the body, where the status is not 200
  std::string fault;      // why an event is none that a client could read; empty = none
  uint64_t n_tokens = 0;  // as the usage has it
  bool is_whole = false;  // its end has come
  double first_token_s = 0, per_token_s = 0;
  std::chrono::milliseconds retry_after{0};

  /// The bytes and how they ended, whatever the time.
  bool says_same(const StreamedAnswer& other) const {
    return is_whole && fault.empty() && text == other.text &&
           finish_reason == other.finish_reason && n_tokens == other.n_tokens;
  }
};

/// One request over a connection that lasts where the answer is whole or refused.
StreamedAnswer ask(SocketClient& client, const std::string& body, const Manner& manner = {});

}  // namespace strata::soak
