#include "tools/cli/device_notices.h"

#include <fmt/format.h>

#include "engine/byte_text.h"
#include "tools/cli/notices.h"
#include "tools/cli/weight_notices.h"

namespace strata::cli {

using engine::bytes_text;

void say_device(const engine::Engine& engine) {
  if (engine.device() == nullptr) return;
  const engine::DevicePlan& plan = engine.device_plan();
  std::string line = fmt::format("device: {} | {} of its memory", engine.device()->name(),
                                 bytes_text(plan.hbm_bytes));
  if (plan.n_streamed() > 0)
    line += fmt::format(" | {} of {} layers pass through it in every step{}", plan.n_streamed(),
                        plan.resident.size(), in_part_text(plan.n_in_part()));
  if (plan.n_on_cpu() > 0)
    line += fmt::format(", but for tokens the CPU multiplies by those of {}", plan.n_on_cpu());
  if (plan.index_bytes > 0)
    line += fmt::format(" | the index: {}, searched there", bytes_text(plan.index_bytes));
  else if (engine.index_bytes() > 0)
    line += fmt::format(" | the CPU searches the index{}",
                        engine.options().placement ? ", as planned" : "");
  const uint64_t kv_bytes = engine.context().kv.slot_bytes;
  line += " | K and V: " + bytes_text(plan.kv_bytes);
  if (engine.context().kv.is_spilling()) {
    notice(line + (engine.options().method
                       ? ", chosen blocks of the rest come there from memory and disk"
                       : ", the CPU attends the rest, in memory and on disk"));
    return;
  }
  line += " of " + bytes_text(kv_bytes);
  if (plan.kv_bytes < kv_bytes && plan.cpu_share > 0)
    line += fmt::format(
        ", of the rest the CPU attends {:.0f} % for tokens, the link brings what is left",
        100 * plan.cpu_share);
  else if (plan.kv_bytes < kv_bytes)
    line += ", the rest is read across the link";
  notice(line);
}

}  // namespace strata::cli
