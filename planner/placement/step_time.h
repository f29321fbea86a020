// planner/placement/step_time.h - what a placement of whole layers and whole blocks takes: layer by
// layer, with the copies and reads that run ahead, as the engine does them. Why beside the linear
// program: that one sees sums, and a layer that waits for its weights is not in a sum.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "planner/placement/problem.h"

namespace strata::planner {

/// Where the layers of a group are, and the K and V of each of them.
struct GroupPlace {
  uint32_t n_hbm = 0, n_dram = 0, n_nvme = 0;  // layers' weights, without pieces apart
  double kv_hbm = 0, kv_dram = 0;  // positions, whole blocks; those in HBM have their home in DRAM,
                                   // kv_dram counts the others; the rest is in the file
  // The CPU computes a token's products beside a device: of n_dram, and with pieces apart that are
  // in DRAM.
  uint32_t n_on_cpu = 0, n_apart_on_cpu = 0;
  auto operator<=>(const GroupPlace&) const = default;
};

/// Of full layers' K and V that are not in HBM: what the CPU attends beside a device.
enum class CpuPart : uint8_t { kNone, kBalanced, kAll };
/// Of a share that is stated (PlacementProblem), which takes the place of a balance.
constexpr CpuPart part_of(double share) {
  return share <= 0 ? CpuPart::kNone : share < 1 ? CpuPart::kBalanced : CpuPart::kAll;
}

struct LayerPlacement {
  std::vector<GroupPlace> groups;
  CpuPart cpu_part = CpuPart::kNone;
  bool is_hbm_alone = false;  // DRAM has no copy of the weights that are in HBM
  auto operator<=>(const LayerPlacement&) const = default;

  bool is_streaming(const PlacementProblem& problem) const;  // weights come from the file
  bool is_passing(const PlacementProblem& problem) const;    // weights come from DRAM or the file
  bool is_spilling(const PlacementProblem& problem) const;   // some K and V are in the file alone
};

/// Bytes of a placement, in GB.
struct PlacedGb {
  double hbm_weights = 0, hbm_kv = 0, hbm_buffers = 0;
  double dram_weights = 0, dram_kv = 0, dram_buffers = 0;
  double dram_slots = 0, kv_beside = 0;  // of the buffers: of layers that pass, of what moves K, V
  double hbm_chosen = 0;                 // of the buffers: room for K and V that HBM has not now
  double hbm_index = 0;                  // rows that the card searches
  double nvme_weights = 0, nvme_file = 0;  // weights in the model file are not of the budget
  double hbm() const { return hbm_weights + hbm_kv + hbm_index + hbm_buffers; }
  double dram() const { return dram_weights + dram_kv + dram_buffers; }  // without the index
};
PlacedGb placed_gb(const PlacementProblem& problem, const LayerPlacement& placement);
inline constexpr double kFitsSlack = 1e-9;  // GB: a byte, which sums of them are off by
bool fits(const PlacementProblem& problem, const LayerPlacement& placement);

enum class PlanPart : uint8_t { kCpu, kDram, kNvme, kLinkIn, kLinkOut, kGpu };
inline constexpr size_t kPlanParts = 6;
const char* plan_part_name(PlanPart part);  // "CPU", "DRAM", "NVMe", "link in", "link out", "GPU"

struct StepTime {
  double ms = 0;
  std::array<double, kPlanParts> busy_ms{};  // by PlanPart
  double waits_ms = 0;  // of ms: no part is at work, nor is the chain of layers
  double ahead_ms = 0;  // of the disk and the link into the card: reads and copies before their use
  /// The part that is at work longest. Reading weights, K and V and an index at more than
  /// kDramBound of DRAM's rate is DRAM's work, not the CPU's.
  PlanPart binding() const;
};

/// What a part did when, of one step.
struct StepEvent {
  PlanPart part;
  uint32_t layer;
  double begin_ms, end_ms;
};

/// A decoded token of the steady state, and where asked its events in the order of layers; reads
/// ahead may begin before 0. Cost: linear in layers.
StepTime token_time(const PlacementProblem& problem, const LayerPlacement& placement,
                    std::vector<StepEvent>* events = nullptr);
/// A prompt until its first token. Cost: layers times chunks, at most kChunkSamples of
/// them.
StepTime prompt_time(const PlacementProblem& problem, const LayerPlacement& placement);
/// Of full layers' K and V that are not in HBM, what the CPU attends of a decoded token beside a
/// device: a number for all of them.
double cpu_share(const PlacementProblem& problem, const LayerPlacement& placement);
/// What no placement's prompt takes less than: all of it is near, whatever room there is.
double prompt_floor_ms(const PlacementProblem& problem);
/// prompt_time + n_out * token_time.
double request_ms(const PlacementProblem& problem, const LayerPlacement& placement);

}  // namespace strata::planner
