// engine/placement.h - what lives where in one run, as a planner or a user says it.
// Why beside rules by hand (weight_budget.h, dram_budget.h, context_size.h, device_plan.h): they
// choose and refuse; this was chosen elsewhere, by who knows rates, and is only checked.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/kv_layout.h"
#include "base/layer_piece.h"
#include "engine/context_size.h"
#include "engine/device_plan.h"
#include "engine/weight_budget.h"

namespace strata::engine {

struct Placement {
  uint32_t n_ctx = 0;
  uint32_t chunk_rows = 0;  // of one prefill step; n_ctx where that is less
  KvCodec k_codec = KvCodec::kF16;
  KvCodec v_codec = KvCodec::kF16;
  // Per layer: what DRAM does not hold, but steps read from the model file as far as they read it;
  // those of a device do not where it stays there.
  std::vector<PieceSet> streamed;
  // Of K and V and of what moves them (KvPlacement::dram_bytes()); what it does not hold of full
  // layers is in a spill file. 0 = all of them in DRAM, and no file.
  uint64_t kv_dram_bytes = 0;
  // Beside a device. Empty = none computes. Per layer: what stays there of its weights; the rest
  // passes.
  std::vector<PieceSet> resident;
  uint64_t kv_hbm_bytes = 0;     // copies of K and V there, rounded down to whole blocks
  bool index_in_hbm = false;     // rows of the index there, if it can search them
  double cpu_share = 0;          // DevicePlan::cpu_share
  std::vector<PieceSet> on_cpu;  // DevicePlan::on_cpu

  bool is_spilling() const { return kv_dram_bytes > 0; }
  bool has_device() const { return !resident.empty(); }
  bool shares_with_cpu() const { return cpu_share > 0 || !on_cpu.empty(); }  // beside a device
};

/// What a placement reserves of DRAM, and of the disk.
struct PlacedMemory {
  WeightPlan weights;
  ContextPlan context;
};

/// `shape` is the model's, `kv_shape` that of all sequences held at a time. Of `request` the limits
/// count: the budget, the spill file's, kv_dram_bytes, and beside it weights_dram_bytes (0 = none).
/// Of `free_bytes`, which the machine has, a larger budget is proposed. Reserves nothing. Errors,
/// each naming a field of the placement or an option: kUsage (another number of layers than the
/// model's, a context beyond the trained one or of nothing), kUnsupported (check_codecs),
/// kDoesNotFit (a budget that is exceeded, with the smallest that would do; less than the smallest
/// that runs).
PlacedMemory place_memory(const WeightSizes& sizes, const ModelShape& shape,
                          const ModelShape& kv_shape, const ContextRequest& request,
                          uint64_t weights_dram_bytes, uint64_t free_bytes,
                          const Placement& placement);

/// The same of a device's memory. Errors as above.
DevicePlan place_on_device(const DeviceNeeds& needs, uint64_t hbm_bytes,
                           const Placement& placement);

}  // namespace strata::engine
