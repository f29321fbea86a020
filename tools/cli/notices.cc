#include "tools/cli/notices.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "engine/text/utf8.h"

namespace strata::cli {
namespace {

constexpr int kBarCells = 20;

std::string duration_text(double seconds) {
  if (seconds < 10) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<uint64_t>(seconds);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

/// C0, DEL and C1, all of which a terminal may obey.
bool is_control(uint32_t code_point) {
  return code_point < 0x20 || (code_point >= 0x7f && code_point <= 0x9f);
}

/// A failure to write here could be said nowhere.
void write_error_stream(std::string_view text) {
  (void)std::fwrite(text.data(), 1, text.size(), stderr);
  (void)std::fflush(stderr);
}

}  // namespace

std::string one_line(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const engine::Utf8Step step = engine::utf8_step(text);
    const std::string_view bytes = text.substr(0, step.bytes);
    if (bytes == "\n") {
      out += "\\n";
    } else if (step.status != engine::Utf8Status::kWhole || is_control(step.code_point)) {
      for (const char c : bytes) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += bytes;
    }
    text.remove_prefix(step.bytes);
  }
  return out;
}

void notice(std::string_view text) { write_error_stream(one_line(text) + "\n"); }

bool notices_on_terminal() { return ::isatty(STDERR_FILENO) == 1; }

Progress::Progress(std::string label, Count count, std::string rate_unit)
    : label_(std::move(label)),
      count_(std::move(count)),
      rate_unit_(std::move(rate_unit)),
      on_terminal_(notices_on_terminal()),
      start_(Clock::now()),
      drawn_(start_) {}

void Progress::update(uint64_t done, uint64_t total) {
  if (!started_) {
    started_ = true;
    first_ = done < total ? done : 0;
  }
  done_ = done;
  total_ = total;
  const auto now = Clock::now();
  const auto pause =
      on_terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(5000);
  if (done_ < total_ && now - drawn_ >= pause) draw(now);
}

std::string Progress::state_text(double seconds) const {
  std::string text = fmt::format("{}/{}", count_(done_), count_(total_));
  const auto moved = static_cast<double>(done_ - std::min(first_, done_));
  if (seconds > 0.05 && moved > 0) {
    const double rate = moved / seconds;
    text += fmt::format("  {}{}", count_(static_cast<uint64_t>(rate)), rate_unit_);
    if (done_ < total_)
      text += fmt::format("  ETA {}", duration_text(static_cast<double>(total_ - done_) / rate));
  }
  if (done_ >= total_) text += fmt::format("  {}", duration_text(seconds));
  return text;
}

void Progress::draw(Clock::time_point now) {
  drawn_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  if (!on_terminal_) {
    write_error_stream(fmt::format("{:<8} {}\n", label_, state_text(seconds)));
    return;
  }
  const double share = total_ > 0 ? static_cast<double>(done_) / static_cast<double>(total_) : 1.0;
  const int n_full = std::clamp(static_cast<int>(share * kBarCells), 0, kBarCells);
  std::string bar(static_cast<size_t>(n_full), '=');
  if (n_full < kBarCells) bar += '>';
  bar.resize(kBarCells, ' ');
  // \r returns to the line's start, ESC [ K clears what an earlier, longer state left behind.
  write_error_stream(fmt::format("\r{:<8} [{}] {}\x1b[K", label_, bar, state_text(seconds)));
}

void Progress::finish() {
  if (!started_) return;
  draw(Clock::now());
  if (on_terminal_) write_error_stream("\n");
  started_ = false;
}

}  // namespace strata::cli
