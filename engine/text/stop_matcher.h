// engine/text/stop_matcher.h - ends an answer at the first stop string, wherever the pieces of text
// are cut.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/pattern_set.h"

namespace strata::engine {

/// Text that may still become a stop string is held back. The stop string that ends first wins, and
/// of those that end at the same byte the longest, so the answer does not depend on how the text
/// was cut into pieces.
class StopMatcher {
 public:
  /// Errors: kUsage (an empty stop string, or one that is not UTF-8).
  explicit StopMatcher(std::vector<std::string> stops);

  /// The text that may be shown now; it holds until the next call. After a hit: what stood before
  /// the stop string, then nothing more.
  std::string_view push(std::string_view text);
  bool is_hit() const { return hit_ != kNoHit; }
  /// The stop string that came; empty = none did.
  std::string hit() const { return is_hit() ? stops_[static_cast<size_t>(hit_)] : std::string(); }
  /// What was held back, where no stop string came after all; it holds until the next call.
  std::string_view finish();

 private:
  std::string_view show(size_t n_bytes);
  std::vector<std::string> stops_;
  PatternSet patterns_;
  PatternSet::State state_ = PatternSet::kStart;
  std::string held_;   // the bytes that state_ stands for
  std::string shown_;  // what the last call gave
  static constexpr int32_t kNoHit = PatternSet::kNone;
  int32_t hit_ = kNoHit;  // of stops_
};

}  // namespace strata::engine
