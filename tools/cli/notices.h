// tools/cli/notices.h - what the program says beside its answers: notices and progress, on standard
// error.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace strata::cli {

/// One line on standard error. Bytes that could steer a terminal (from a hostile file or name) are
/// shown as \xNN.
void notice(std::string_view text);
/// `text` on one line: control characters and what is not UTF-8 are written out byte by byte.
std::string one_line(std::string_view text);
bool notices_on_terminal();

/// A bar with rate and ETA on a terminal, redrawn ten times a second; a plain line every five
/// seconds elsewhere. The last state stays.
class Progress {
 public:
  using Count = std::function<std::string(uint64_t)>;  // 98362432 -> "93.8 MiB"
  /// `label` "loading", `count` shows amounts, `rate_unit` is what stands behind count(amount per
  /// second), such as "/s".
  Progress(std::string label, Count count, std::string rate_unit);
  void update(uint64_t done, uint64_t total);
  /// Draws the final state and ends the line. Work that was never updated shows nothing.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  std::string state_text(double seconds) const;
  void draw(Clock::time_point now);
  std::string label_;
  Count count_;
  std::string rate_unit_;
  // Amount at the first update: what was there before does not count into the rate.
  uint64_t first_ = 0;
  uint64_t done_ = 0, total_ = 0;
  bool started_ = false;
  bool on_terminal_;
  Clock::time_point start_, drawn_;
};

}  // namespace strata::cli
