// engine/draft_length.h - how many tokens to guess ahead: more while guesses come true, hardly any
// while they do not.
#pragma once

#include <algorithm>
#include <cstdint>

namespace strata::engine {

/// Twice as many after a draft that came true whole, half as many after one of which less than half
/// did. Where single tokens fail as well, steps go by without one: 1, 2, 4, ... 32 of them, so that
/// a text that repeats nothing pays for one more row in 33 steps. Looks at no clock: a run can be
/// repeated.
class DraftLength {
 public:
  static constexpr uint32_t kFirst = 4, kPauseMax = 32;

  explicit DraftLength(uint32_t n_max) : n_max_(n_max), n_(std::min(kFirst, n_max)) {}

  /// For the next step.
  uint32_t next() {
    if (n_paused_ == 0) return n_;
    --n_paused_;
    return 0;
  }
  /// What became of a draft.
  void take(uint32_t n_proposed, uint32_t n_accepted) {
    if (n_proposed == 0) return;
    if (n_accepted > 0) pause_ = 0;
    if (n_accepted == n_proposed) {
      n_ = std::min(2 * n_, n_max_);
    } else if (n_ > 1) {
      if (2 * n_accepted < n_proposed) n_ /= 2;
    } else {
      pause_ = std::clamp(2 * pause_, 1u, kPauseMax);
      n_paused_ = pause_;
    }
  }

 private:
  uint32_t n_max_;
  uint32_t n_;
  uint32_t pause_ = 0;     // the last one's steps
  uint32_t n_paused_ = 0;  // steps of it still to come
};

}  // namespace strata::engine
