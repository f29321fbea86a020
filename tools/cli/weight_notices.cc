#include "tools/cli/weight_notices.h"

#include <fmt/format.h>

#include "engine/byte_text.h"
#include "tools/cli/interrupt.h"

namespace strata::cli {

using engine::bytes_text;
using engine::grouped_number;

LoadingBar::LoadingBar() : progress_("loading", bytes_text, "/s") {}

engine::Model::Progress LoadingBar::updates() {
  return [this](uint64_t done, uint64_t total) {
    progress_.update(done, total);
    return !interrupt_flag().load();
  };
}

std::string in_part_text(uint64_t n_layers) {
  return n_layers == 0 ? "" : fmt::format(", {} of them in part", n_layers);
}

void say_streaming(const engine::Engine& engine) {
  const engine::WeightPlan& plan = engine.weight_plan();
  if (plan.n_streamed() == 0) return;
  uint32_t n_read = 0, n_in_part = 0, n_there = 0;  // layers; the last in the device's memory alone
  for (size_t layer = 0; layer < plan.streamed.size(); ++layer) {
    const PieceSet held =
        engine.device() != nullptr ? engine.device_plan().resident[layer] : kNoPiece;
    const PieceSet read = without(plan.streamed[layer], held);
    n_read += read.is_any() ? 1u : 0u;
    n_in_part += read.is_any() && !read.is_whole() ? 1u : 0u;
    n_there += common_pieces(plan.streamed[layer], held).is_any() ? 1u : 0u;
  }
  notice(fmt::format(
      "weights: {} of {} layers are read from the model file in every step{}{} | {} in "
      "memory: {} that stay, {} for layers that pass, {} for reads",
      n_read, plan.streamed.size(), in_part_text(n_in_part),
      n_there > 0 ? fmt::format(", {} are in the device's memory alone", n_there) : "",
      bytes_text(plan.total_bytes()), bytes_text(plan.resident_bytes),
      bytes_text(plan.n_slots * plan.slot_bytes), bytes_text(plan.n_buffers * plan.buffer_bytes)));
}

void say_load(const engine::LoadReport& report, bool verbose) {
  if (!verbose && !report.is_measured) return;
  std::string line = report.used == engine::LoadMode::kDirect
                         ? fmt::format("loaded past the page cache (direct, {})", report.back_end)
                         : std::string("loaded through the page cache (mmap)");
  if (report.is_measured)
    line += fmt::format(": measured {}/s direct, {}/s mmap",
                        bytes_text(static_cast<uint64_t>(report.direct_bytes_per_s)),
                        bytes_text(static_cast<uint64_t>(report.mapped_bytes_per_s)));
  notice(line);
}

void say_reads(const engine::Engine& engine, const engine::WeightReadCounts& before) {
  if (!engine.reads_weights()) return;
  const engine::WeightReadCounts counts = engine.model().read_counts();
  notice(fmt::format(
      "weights: {} read from the model file in {} reads ({}) | {} layers were late: waited {:.2f} "
      "s "
      "for the disk | packed for {:.2f} s",
      bytes_text(counts.read_bytes - before.read_bytes),
      grouped_number(counts.n_reads - before.n_reads), counts.back_end,
      grouped_number(counts.n_stalls - before.n_stalls), counts.wait_seconds - before.wait_seconds,
      counts.pack_seconds - before.pack_seconds));
}

}  // namespace strata::cli
