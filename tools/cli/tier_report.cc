#include "tools/cli/tier_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/byte_text.h"
#include "engine/machine.h"

namespace strata::cli {
namespace {

using engine::bytes_text;
using engine::grouped_number;

/// The differences of the counts that are reported.
TierCounts counts_since(engine::Engine& engine, const TierCounts& before) {
  TierCounts now = tier_counts(engine);
  now.kv.read_bytes -= before.kv.read_bytes;
  now.kv.written_bytes -= before.kv.written_bytes;
  now.kv.stalls -= before.kv.stalls;
  now.kv.stall_us -= before.kv.stall_us;
  now.store.retries -= before.store.retries;
  now.store.corrupt_blocks -= before.store.corrupt_blocks;
  now.store.lost_extents -= before.store.lost_extents;
  now.store.replaced_blocks -= before.store.replaced_blocks;
  now.store.write_failures -= before.store.write_failures;
  now.walk.read_bytes -= before.walk.read_bytes;
  now.walk.written_bytes -= before.walk.written_bytes;
  now.walk.extents_attended -= before.walk.extents_attended;
  now.walk.extents_missing -= before.walk.extents_missing;
  now.walk.rows_made_exact -= before.walk.rows_made_exact;
  now.weights.read_bytes -= before.weights.read_bytes;
  return now;
}

double hit_rate(const engine::WalkCounts& walk) {
  if (walk.extents_attended == 0) return 1;
  const double missing = static_cast<double>(walk.extents_missing);
  return std::max(0.0, 1 - missing / static_cast<double>(walk.extents_attended));
}

std::string faults_text(const tiers::StoreCounts& counts, uint64_t rows_made_exact) {
  if (counts.retries == 0 && counts.lost_extents == 0 && counts.replaced_blocks == 0)
    return " | no faults";
  std::string text = fmt::format(
      " | {} reads repeated, {} blocks corrupt, {} computed again", grouped_number(counts.retries),
      grouped_number(counts.corrupt_blocks), grouped_number(counts.replaced_blocks));
  if (rows_made_exact > 0)
    text += fmt::format(
        ", {} tokens among them exactly that were approximate: the answer may differ from that of "
        "a run without the fault",
        grouped_number(rows_made_exact));
  return text;
}

std::string disk_text(const tiers::TransferCounts& moved) {
  return fmt::format("disk: {} read, {} written, {} waits of {:.2f} s together",
                     bytes_text(moved.read_bytes), bytes_text(moved.written_bytes),
                     grouped_number(moved.stalls), static_cast<double>(moved.stall_us) * 1e-6);
}

/// Of exact steps; attention_text() says it of selected ones.
std::string hits_text(const engine::WalkCounts& walk) {
  if (walk.extents_attended == 0) return "";
  return fmt::format(" | {:.1f} % of what was attended to was in memory", 100 * hit_rate(walk));
}

std::string moves_text(const TierCounts& counts) {
  return fmt::format("memory: {} read, {} written | {}{}{}", bytes_text(counts.walk.read_bytes),
                     bytes_text(counts.walk.written_bytes), disk_text(counts.kv),
                     hits_text(counts.walk),
                     faults_text(counts.store, counts.walk.rows_made_exact));
}

std::string refusals_text(const tiers::BlockStore& store, const tiers::StoreCounts& counts) {
  if (counts.write_failures > 0)
    return fmt::format(" | {} writes failed: {}", counts.write_failures,
                       tiers::io_status_name(store.last_failure()));
  if (counts.places_refused == 0) return "";
  return " | the budget on disk is used up: the rest stayed in memory";
}

}  // namespace

TierCounts tier_counts(engine::Engine& engine) {
  const tiers::BlockStore& store = engine.cache().store();
  TierCounts counts;
  counts.kv = store.transfer_counts();
  counts.store = store.counts();
  counts.walk = engine.walk().counts();
  counts.weights = engine.model().read_counts();
  return counts;
}

std::string tier_line(engine::Engine& engine, const TierCounts& before) {
  const tiers::BlockStore& store = engine.cache().store();
  const TierCounts counts = counts_since(engine, before);
  if (!store.has_spill())
    return counts.kv.read_bytes > 0 || counts.store.lost_extents > 0
               ? "saved contexts: " + moves_text(counts)
               : "";
  const auto& pool = store.pool();
  return fmt::format("K and V: {} in memory, {} in the spill file | {}{}",
                     bytes_text(uint64_t{pool.n_slots() - pool.n_free()} * pool.block_bytes()),
                     bytes_text(store.places()->used_bytes()), moves_text(counts),
                     refusals_text(store, counts.store));
}

nlohmann::ordered_json tiers_json(engine::Engine& engine, const TierCounts& before) {
  const tiers::BlockStore& store = engine.cache().store();
  const TierCounts counts = counts_since(engine, before);
  const auto& pool = store.pool();
  const uint64_t weights = engine.model().weight_bytes();
  const uint64_t n_resident = counts.walk.extents_attended -
                              std::min(counts.walk.extents_attended, counts.walk.extents_missing);
  nlohmann::ordered_json dram = {{"budget_bytes", weights + engine.context().kv.dram_bytes()},
                                 {"peak_bytes", engine::peak_memory_bytes()},
                                 {"weights_bytes", weights},
                                 {"kv_bytes", uint64_t{pool.peak_used()} * pool.block_bytes()},
                                 {"read_bytes", counts.walk.read_bytes},
                                 {"written_bytes", counts.walk.written_bytes},
                                 {"extents_attended", counts.walk.extents_attended},
                                 {"extents_resident", n_resident},
                                 {"hit_rate", hit_rate(counts.walk)}};
  const bool streams_weights = engine.reads_weights();
  if (store.transfers() == nullptr && !streams_weights) return {{"dram", dram}};
  nlohmann::ordered_json nvme;
  if (const tiers::PlaceSource* places = store.places()) {
    nvme["budget_bytes"] = places->budget_bytes();
    nvme["peak_bytes"] = places->peak_bytes();
    nvme["kv_bytes"] = places->used_bytes();
  }
  nvme["read_bytes"] = counts.kv.read_bytes + counts.weights.read_bytes;
  if (streams_weights) nvme["weights_read_bytes"] = counts.weights.read_bytes;
  nvme["written_bytes"] = counts.kv.written_bytes;
  nvme["stalls"] = counts.kv.stalls;
  nvme["stall_ms"] = static_cast<double>(counts.kv.stall_us) * 1e-3;
  if (store.transfers() != nullptr) nvme["io"] = store.transfers()->io().name();
  return {{"dram", dram}, {"nvme", nvme}};
}

nlohmann::ordered_json faults_json(engine::Engine& engine, const TierCounts& before) {
  const TierCounts counts = counts_since(engine, before);
  return {{"retries", counts.store.retries},
          {"corrupt_blocks", counts.store.corrupt_blocks},
          {"recomputed_blocks", counts.store.replaced_blocks},
          {"rows_made_exact", counts.walk.rows_made_exact},
          {"failed_writes", counts.store.write_failures}};
}

}  // namespace strata::cli
