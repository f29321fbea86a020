#include "tools/cli/attention_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/byte_text.h"
#include "index/method.h"
#include "tools/cli/value_readers.h"

namespace strata::cli {
namespace {

constexpr const char* kExactHere = "exact here: nothing was left out";

/// Whether every step since the model was loaded has attended all there was: of a text that is
/// shorter than the budget or than what is always attended, or too short to fill a block.
bool left_nothing_out(engine::Engine& engine) {
  const engine::SelectionCounts& all = engine.walk().selection_counts();
  return all.attended_blocks == all.blocks && engine.options().sparse_from == engine::kNeverSparse;
}

}  // namespace

const char* method_name(index::Method method) {
  for (const auto& of : index::method_names())
    if (of.method == method) return of.name;
  return "unknown";
}

engine::SelectionCounts selection_counts(engine::Engine& engine) {
  if (engine.attention() == engine::Attention::kExact) return {};
  return engine.walk().selection_counts();
}

const char* index_searched_by(const engine::SelectionCounts& reads, bool card_is_to_search) {
  if (reads.index_bytes == 0) return card_is_to_search ? "card" : "cpu";
  if (reads.scanned_on_device_bytes == 0) return "cpu";
  return reads.scanned_on_device_bytes == reads.index_bytes ? "card" : "both";
}

std::string searched_place_text(const engine::SelectionCounts& reads) {
  if (reads.scanned_on_device_bytes == 0) return "";
  if (reads.scanned_on_device_bytes == reads.index_bytes) return " in the card's memory";
  return fmt::format(" ({:.1f} % of it in the card's memory)",
                     100 * static_cast<double>(reads.scanned_on_device_bytes) /
                         static_cast<double>(reads.index_bytes));
}

std::string attention_text(engine::Engine& engine, const engine::SelectionCounts& before) {
  if (engine.attention() == engine::Attention::kExact) return " | exact attention";
  const engine::SelectionCounts reads = engine.walk().selection_counts().since(before);
  const char* name = method_name(*engine.options().method);
  const std::string budget = budget_text(engine.options().selection.budget);
  if (reads.steps == 0) return fmt::format(" | attention {} {}: no step selected", name, budget);
  const uint64_t bytes =
      reads.attended_positions() * kv_position_bytes(engine.cache().layout()) + reads.index_bytes;
  std::string text =
      fmt::format(" | attention {} {} ({}): {:.1f} % of K and V read, {} a step", name, budget,
                  left_nothing_out(engine) ? kExactHere : "approximate",
                  100 * reads.attended_share(), engine::bytes_text(bytes / reads.steps));
  if (const uint64_t from = engine.options().sparse_from; from != engine::kNeverSparse)
    text += fmt::format(", prompts read by it too from token {} on", engine::grouped_number(from));
  if (!engine.cache().store().can_read_blocks()) return text;
  text += fmt::format(", {:.1f} % of it found in memory, {} a step from disk",
                      100 * reads.hit_rate(), engine::bytes_text(reads.file_bytes / reads.steps));
  if (const double near = engine.options().selection.residency_tolerance; near > 0)
    text += fmt::format(
        ", blocks in memory preferred for up to {:g} % of the weight: the answer depends on what "
        "is in memory",
        100 * near);
  return text;
}

nlohmann::ordered_json selected_json(const std::string& method, const std::string& budget,
                                     uint64_t kv_position_bytes,
                                     const engine::SelectionCounts& reads) {
  const auto n = static_cast<double>(std::max<uint64_t>(1, reads.steps));
  return {{"method", method},
          {"budget", budget},
          {"selected_steps", reads.steps},
          {"kv_read_bytes_per_token",
           static_cast<double>(reads.attended_positions() * kv_position_bytes) / n},
          {"index_read_bytes_per_token", static_cast<double>(reads.index_bytes) / n},
          {"kv_read_share", reads.attended_share()}};
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
  const engine::SelectionCounts reads = engine.walk().selection_counts().since(before);
  auto json = selected_json(method_name(*engine.options().method),
                            budget_text(engine.options().selection.budget),
                            kv_position_bytes(engine.cache().layout()), reads);
  json["nothing_left_out"] = left_nothing_out(engine);
  json["near_tolerance"] = engine.options().selection.residency_tolerance;
  if (const uint64_t from = engine.options().sparse_from; from != engine::kNeverSparse)
    json["sparse_prefill_from"] = from;
  json["attended_blocks"] = reads.attended_blocks;
  json["hit_rate"] = reads.hit_rate();
  json["disk_read_bytes_per_token"] = static_cast<double>(reads.file_bytes) /
                                      static_cast<double>(std::max<uint64_t>(1, reads.steps));
  json["index_bytes"] = engine.index_bytes();
  if (engine.index_bytes() > 0)
    json["index_searched_by"] = index_searched_by(
        reads, engine.device() != nullptr && engine.device_plan().index_bytes > 0);
  return json;
}

}  // namespace strata::cli
