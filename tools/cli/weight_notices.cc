#include "tools/cli/weight_notices.h"

#include <fmt/format.h>

#include "engine/byte_text.h"
#include "tools/cli/notices.h"

namespace strata::cli {

using engine::bytes_text;

void say_streaming(const engine::WeightPlan& plan) {
  if (plan.n_streamed() == 0) return;
  notice(
      fmt::format("weights: {} of {} layers are read from the model file in every step | {} in "
                  "memory: {} that stay, {} for layers that pass, {} for reads",
                  plan.n_streamed(), plan.is_streamed.size(), bytes_text(plan.total_bytes()),
                  bytes_text(plan.resident_bytes), bytes_text(plan.n_slots * plan.slot_bytes),
                  bytes_text(plan.n_buffers * plan.buffer_bytes)));
}

void say_load(const engine::LoadReport& report) {
  std::string line = report.used == engine::LoadMode::kDirect
                         ? "loaded past the page cache (direct)"
                         : "loaded through the page cache (mmap)";
  if (report.is_measured)
    line += fmt::format(": measured {}/s direct, {}/s mmap",
                        bytes_text(static_cast<uint64_t>(report.direct_bytes_per_s)),
                        bytes_text(static_cast<uint64_t>(report.mapped_bytes_per_s)));
  notice(line);
}

}  // namespace strata::cli
