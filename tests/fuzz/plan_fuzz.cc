// Fuzzes the reader of plan files: any bytes as the file. Wanted: strata::Error that says what,
// where and what to do, or a plan whose every layer is somewhere, within its own budgets, and which
// is the same after it was written and read again.
// Run: plan_fuzz -max_len=4096 -rss_limit_mb=2048 -malloc_limit_mb=64 -timeout=10 CORPUS_DIR
//      tests/fuzz/seeds/plan_fuzz
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "tools/cli/plan_file.h"

namespace {

using strata::cli::PlanFile;

void hold(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

void check(const PlanFile& plan) {
  const strata::engine::Placement& placement = plan.placement;
  hold(plan.n_layers > 0 && placement.streamed.size() == plan.n_layers, "a place for each layer");
  hold(placement.has_device() == (plan.device != "none"), "a device, or none");
  if (placement.has_device())
    hold(placement.resident.size() == plan.n_layers, "a place for each layer on the device");
  hold(placement.n_ctx > 0 && placement.chunk_rows > 0, "a context and a chunk");
  hold(placement.kv_dram_bytes <= plan.dram_bytes, "K and V within the budget");
  hold(placement.kv_hbm_bytes <= plan.hbm_bytes, "copies within the budget");
  hold(!placement.is_spilling() || plan.nvme_bytes > 0, "a disk to spill to");
  hold(std::isfinite(plan.ttft_ms) && plan.ttft_ms >= 0, "a time");
  hold(std::isfinite(plan.tpot_ms) && plan.tpot_ms >= 0, "a time");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  PlanFile plan;
  try {
    plan = strata::cli::parse_plan_file(text, "fuzz.json");
  } catch (const strata::Error& error) {
    hold(error.code() == strata::ErrorCode::kBadFile, "a bad file");
    hold(error.what()[0] != '\0' && error.where() == "fuzz.json", "an error says what and where");
    hold(!error.remedy().empty(), "an error says what to do");
    return 0;
  }
  check(plan);
  const std::string written = strata::cli::plan_file_json(plan);
  const PlanFile again = strata::cli::parse_plan_file(written, "again.json");
  hold(strata::cli::plan_file_json(again) == written, "the same after writing and reading");
  return 0;
}
