#include "tools/cli/plan_bar.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

namespace strata::cli {
namespace {

constexpr uint32_t kBeside = 20;  // columns of a line that are not the bar, and a margin
constexpr uint32_t kLeast = 10, kMost = 160;

struct Fills {
  const char *weights, *kv, *index, *buffers, *free;
};
constexpr Fills kLetters{"W", "K", "i", "b", "."};
constexpr Fills kBlocks{"█", "▓", "▒", "░", "·"};

const Fills& fills_of(const PlanLook& look) { return look.has_blocks ? kBlocks : kLetters; }

}  // namespace

PlanLook terminal_look(int descriptor, bool is_utf8) {
  PlanLook look;
  if (::isatty(descriptor) != 1) return look;
  look.has_blocks = is_utf8;
  winsize size{};
  if (::ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) look.n_columns = size.ws_col;
  return look;
}

std::string tier_bar(const planner::TierUse& use, const PlanLook& look) {
  const uint32_t width = std::clamp(look.n_columns, kBeside + kLeast, kMost) - kBeside;
  const Fills& fills = fills_of(look);
  std::string out;
  double end = 0;
  uint32_t n_drawn = 0;
  const auto add = [&](double gb, const char* fill) {
    end += gb;
    const double length =
        use.budget_gb > 0 ? std::min<double>(width, end / use.budget_gb * width) : 0;
    for (; n_drawn < std::lround(length); ++n_drawn) out += fill;
  };
  add(use.weights_gb, fills.weights);
  add(use.kv_gb, fills.kv);
  add(use.index_gb, fills.index);
  add(use.buffers_gb, fills.buffers);
  for (; n_drawn < width; ++n_drawn) out += fills.free;
  return out;
}

std::string bar_legend(const PlanLook& look) {
  const Fills& fills = fills_of(look);
  const auto entry = [](const char* fill, const char* what) {
    return std::string(fill) + " " + what;
  };
  return entry(fills.weights, "weights   ") + entry(fills.kv, "keys and values   ") +
         entry(fills.index, "index   ") + entry(fills.buffers, "buffers   ") +
         entry(fills.free, "free");
}

}  // namespace strata::cli
