#include "tools/cli/memory_watch.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/byte_text.h"
#include "engine/dram_budget.h"
#include "engine/machine.h"

namespace strata::cli {
namespace {

constexpr double kWaits = 0.1;  // of the time: a tenth of it is no chance any more
constexpr double kWaitsNoMore = kWaits / 2;
// What is free moves by some tens of MiB by itself, and a plan is not exact to a hundredth. Memory
// that lacks is said to be there again only a whole slack later.
constexpr uint64_t kSlackDivisor = 50;  // of what was planned
// Of what is there, for the proposed --dram: the rest is for others.
constexpr uint64_t kOfferedPercent = 95;

}  // namespace

MemoryNow memory_now() {
  return {engine::held_memory_bytes(), engine::available_dram_bytes(), engine::memory_pressure()};
}

std::string MemoryWatch::look(const MemoryNow& now) {
  using engine::bytes_text;
  const uint64_t missing = planned_bytes_ - std::min(planned_bytes_, now.held_bytes);
  const uint64_t lacking = missing - std::min(missing, now.available_bytes);
  const uint64_t slack = std::max(engine::kProcessBytes, planned_bytes_ / kSlackDivisor);
  const bool lacks = lacking > slack, waits = now.pressure >= kWaits;
  if (is_short_) {
    is_short_ = lacking > 0 || now.pressure >= kWaitsNoMore;
    return "";
  }
  is_short_ = lacks || waits;
  if (!is_short_) return "";
  if (!lacks)
    return fmt::format(
        "plan: memory runs short: this machine waits for it {:.0f} % of the time; end other "
        "programs",
        100 * now.pressure);
  // In whole MiB: tenths of GiB, rounded up, can be more than is there.
  const uint64_t there = now.held_bytes + now.available_bytes;
  return fmt::format(
      "plan: memory runs short: {} of what was planned are still to be taken, {} are free; end "
      "other programs, or begin again with --dram {}MiB",
      bytes_text(missing), bytes_text(now.available_bytes), (there / 100 * kOfferedPercent) >> 20);
}

}  // namespace strata::cli
