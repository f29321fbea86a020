#include "tools/cli/tier_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "engine/byte_text.h"
#include "engine/machine.h"

namespace strata::cli {
namespace {

std::string faults_text(const tiers::StoreCounts& counts) {
  return fmt::format(" {} reads repeated, {} blocks corrupt, {} computed again", counts.retries,
                     counts.corrupt_blocks, counts.replaced_blocks);
}

}  // namespace

std::string tier_line(engine::Engine& engine) {
  const tiers::BlockStore& store = engine.cache().store();
  const auto& counts = store.counts();
  const bool has_faults = counts.retries > 0 || counts.lost_extents > 0;
  if (!store.has_spill()) return has_faults ? "saved contexts:" + faults_text(counts) : "";
  const auto& pool = store.pool();
  const auto& moved = store.transfers()->counts();
  std::string line = fmt::format(
      "K and V: {} in memory, {} on disk | disk: {} written, {} read, {:.2f} s waited",
      engine::bytes_text(uint64_t{pool.n_slots() - pool.n_free()} * pool.block_bytes()),
      engine::bytes_text(store.places()->used_bytes()), engine::bytes_text(moved.written_bytes),
      engine::bytes_text(moved.read_bytes), static_cast<double>(moved.stall_us) * 1e-6);
  if (has_faults) line += " |" + faults_text(counts);
  if (counts.write_failures > 0)
    line += fmt::format(" | {} writes failed: {}", counts.write_failures,
                        tiers::io_status_name(store.last_failure()));
  else if (counts.places_refused > 0)
    line += fmt::format(" | the disk took no more ({}): the rest stayed in memory",
                        store.last_failure() == tiers::IoStatus::kOk
                            ? "its budget is used up"
                            : tiers::io_status_name(store.last_failure()));
  return line;
}

nlohmann::ordered_json tiers_json(engine::Engine& engine) {
  const tiers::BlockStore& store = engine.cache().store();
  const auto& pool = store.pool();
  const uint64_t weights = engine.model().weight_bytes();
  nlohmann::ordered_json dram = {{"budget_bytes", weights + engine.context().kv.dram_bytes()},
                                 {"peak_bytes", engine::peak_memory_bytes()},
                                 {"weights_bytes", weights},
                                 {"kv_bytes", uint64_t{pool.peak_used()} * pool.block_bytes()}};
  if (store.transfers() == nullptr) return {{"dram", dram}};
  const auto& moved = store.transfers()->counts();
  nlohmann::ordered_json nvme;
  if (const tiers::PlaceSource* places = store.places()) {
    nvme["budget_bytes"] = places->budget_bytes();
    nvme["peak_bytes"] = places->peak_bytes();
    nvme["kv_bytes"] = places->used_bytes();
  }
  nvme["read_bytes"] = moved.read_bytes;
  nvme["written_bytes"] = moved.written_bytes;
  nvme["stalls"] = moved.stalls;
  nvme["stall_ms"] = static_cast<double>(moved.stall_us) * 1e-3;
  nvme["io"] = store.transfers()->io().name();
  return {{"dram", dram}, {"nvme", nvme}};
}

nlohmann::ordered_json faults_json(engine::Engine& engine) {
  const auto& counts = engine.cache().store().counts();
  return {{"retries", counts.retries},
          {"corrupt_blocks", counts.corrupt_blocks},
          {"recomputed_blocks", counts.replaced_blocks},
          {"failed_writes", counts.write_failures}};
}

}  // namespace strata::cli
