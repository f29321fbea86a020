#include "tools/cli/memory_watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "engine/byte_text.h"
#include "engine/machine.h"

namespace strata::cli {
namespace {

constexpr double kWaits = 0.1;  // of the time: a tenth of it is no chance any more

}  // namespace

MemoryNow memory_now() {
  return {engine::held_memory_bytes(), engine::available_dram_bytes(), engine::memory_pressure()};
}

std::string MemoryWatch::look(const MemoryNow& now) {
  using engine::bytes_text;
  const uint64_t missing = planned_bytes_ - std::min(planned_bytes_, now.held_bytes);
  const bool lacks = now.available_bytes < missing, waits = now.pressure >= kWaits;
  const bool was_short = std::exchange(is_short_, lacks || waits);
  if (was_short || !is_short_) return "";
  const std::string why =
      lacks ? fmt::format("{} of what was planned are still to be taken, {} are free",
                          bytes_text(missing), bytes_text(now.available_bytes))
            : fmt::format("this machine waits for it {:.0f} % of the time", 100 * now.pressure);
  const uint64_t there = now.held_bytes + now.available_bytes;
  return fmt::format(
      "plan: memory runs short: {}; end other programs, or begin again with --dram {}", why,
      engine::size_argument(std::min(there, planned_bytes_)));
}

}  // namespace strata::cli
