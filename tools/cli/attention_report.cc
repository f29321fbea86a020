#include "tools/cli/attention_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "engine/byte_text.h"
#include "index/method.h"
#include "tools/cli/value_readers.h"

namespace strata::cli {
namespace {

/// What selected steps read, per step and as a share of what exact attention would have read of the
/// layers that select.
struct SelectedReads {
  uint64_t steps = 0;
  double kv_share = 1;
  double kv_bytes_per_step = 0;
  double index_bytes_per_step = 0;
  uint64_t attended_blocks = 0;  // per KV head and layer
  double hit_rate = 1;           // share of them that was in memory
  double file_bytes_per_step = 0;
};

SelectedReads selected_reads(engine::Engine& engine, const engine::SelectionCounts& before) {
  const engine::SelectionCounts now = selection_counts(engine);
  SelectedReads reads{.steps = now.steps - before.steps};
  if (reads.steps == 0) return reads;
  const auto open = static_cast<double>(now.open_positions - before.open_positions);
  const double attended =
      static_cast<double>(now.attended_blocks - before.attended_blocks) * kBlockPositions + open;
  const double all = static_cast<double>(now.blocks - before.blocks) * kBlockPositions + open;
  const auto n = static_cast<double>(reads.steps);
  reads.kv_share = all > 0 ? attended / all : 1;
  reads.kv_bytes_per_step =
      attended * static_cast<double>(kv_position_bytes(engine.cache().layout())) / n;
  reads.index_bytes_per_step = static_cast<double>(now.index_bytes - before.index_bytes) / n;
  reads.attended_blocks = now.attended_blocks - before.attended_blocks;
  if (reads.attended_blocks > 0)
    reads.hit_rate = 1 - static_cast<double>(now.missing_blocks - before.missing_blocks) /
                             static_cast<double>(reads.attended_blocks);
  reads.file_bytes_per_step = static_cast<double>(now.file_bytes - before.file_bytes) / n;
  return reads;
}

const char* method_name(index::Method method) {
  for (const auto& of : index::method_names())
    if (of.method == method) return of.name;
  return "unknown";
}

}  // namespace

engine::SelectionCounts selection_counts(engine::Engine& engine) {
  if (engine.attention() == engine::Attention::kExact) return {};
  return engine.walk().selection_counts();
}

std::string attention_text(engine::Engine& engine, const engine::SelectionCounts& before) {
  if (engine.attention() == engine::Attention::kExact) return " | exact attention";
  const SelectedReads reads = selected_reads(engine, before);
  const char* name = method_name(*engine.options().method);
  const std::string budget = budget_text(engine.options().selection.budget);
  if (reads.steps == 0) return fmt::format(" | attention {} {}: no step selected", name, budget);
  std::string text =
      fmt::format(" | attention {} {} (approximate): {:.1f} % of K and V read, {} a step", name,
                  budget, 100 * reads.kv_share,
                  engine::bytes_text(
                      static_cast<uint64_t>(reads.kv_bytes_per_step + reads.index_bytes_per_step)));
  if (engine.cache().store().can_read_blocks())
    text +=
        fmt::format(", {:.1f} % of it found in memory, {} a step from disk", 100 * reads.hit_rate,
                    engine::bytes_text(static_cast<uint64_t>(reads.file_bytes_per_step)));
  return text;
}

nlohmann::ordered_json attention_json(engine::Engine& engine, const engine::SelectionCounts& before,
                                      bool has_decoded) {
  if (engine.attention() == engine::Attention::kExact) {
    nlohmann::ordered_json exact = {{"method", "exact"}};
    if (!has_decoded) return exact;
    uint64_t kv_read = 0;
    for (const auto& op : engine.walk().plan().ops) kv_read += op.kv_read_bytes;
    exact["kv_read_bytes_per_token"] = kv_read;  // of the last step, at the answer's end
    exact["kv_read_share"] = 1.0;
    return exact;
  }
  const SelectedReads reads = selected_reads(engine, before);
  return {{"method", method_name(*engine.options().method)},
          {"budget", budget_text(engine.options().selection.budget)},
          {"selected_steps", reads.steps},
          {"kv_read_bytes_per_token", reads.kv_bytes_per_step},
          {"index_read_bytes_per_token", reads.index_bytes_per_step},
          {"kv_read_share", reads.kv_share},
          {"attended_blocks", reads.attended_blocks},
          {"hit_rate", reads.hit_rate},
          {"disk_read_bytes_per_token", reads.file_bytes_per_step},
          {"index_bytes", engine.index_bytes()}};
}

}  // namespace strata::cli
