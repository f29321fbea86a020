#include "tools/cli/tier_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "engine/byte_text.h"
#include "engine/machine.h"

namespace strata::cli {

std::string tier_line(engine::Engine& engine) {
  const tiers::BlockStore& store = engine.cache().store();
  if (!store.has_spill()) return "";
  const auto& pool = store.pool();
  const auto& counts = store.counts();
  const auto& moved = store.transfers()->counts();
  std::string line = fmt::format(
      "K and V: {} in memory, {} on disk | disk: {} written, {} read, {:.2f} s waited",
      engine::bytes_text(uint64_t{pool.n_slots() - pool.n_free()} * pool.block_bytes()),
      engine::bytes_text(store.places()->used_bytes()), engine::bytes_text(moved.written_bytes),
      engine::bytes_text(moved.read_bytes), static_cast<double>(moved.stall_us) * 1e-6);
  if (counts.retries > 0 || counts.lost_extents > 0)
    line += fmt::format(" | {} reads repeated, {} blocks corrupt, {} computed again",
                        counts.retries, counts.corrupt_blocks, counts.replaced_blocks);
  if (counts.write_failures > 0)
    line += fmt::format(" | {} writes failed: {}", counts.write_failures,
                        tiers::io_status_name(store.last_failure()));
  return line;
}

nlohmann::ordered_json tiers_json(engine::Engine& engine) {
  const tiers::BlockStore& store = engine.cache().store();
  const auto& pool = store.pool();
  const uint64_t weights = engine.model().weight_bytes();
  nlohmann::ordered_json dram = {
      {"budget_bytes", weights + engine.context().kv.dram_bytes()},
      {"peak_bytes", engine::peak_memory_bytes()},
      {"weights_bytes", weights},
      {"kv_bytes", uint64_t{pool.peak_used()} * pool.block_bytes()}};
  if (!store.has_spill()) return {{"dram", dram}};
  const auto& moved = store.transfers()->counts();
  return {{"dram", dram},
          {"nvme",
           {{"budget_bytes", store.places()->budget_bytes()},
            {"peak_bytes", store.places()->peak_bytes()},
            {"kv_bytes", store.places()->used_bytes()},
            {"read_bytes", moved.read_bytes},
            {"written_bytes", moved.written_bytes},
            {"stalls", moved.stalls},
            {"stall_ms", static_cast<double>(moved.stall_us) * 1e-3},
            {"io", store.transfers()->io().name()}}}};
}

nlohmann::ordered_json faults_json(engine::Engine& engine) {
  const auto& counts = engine.cache().store().counts();
  return {{"retries", counts.retries},
          {"corrupt_blocks", counts.corrupt_blocks},
          {"recomputed_blocks", counts.replaced_blocks},
          {"failed_writes", counts.write_failures}};
}

}  // namespace strata::cli
