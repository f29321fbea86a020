// planner/virtual/device_profile.h - figures of graphics cards and of the machines around them.
// Why: schedules, budgets and predictions are wanted for cards that no one here has. Each figure
// says where it is from: a datasheet, a card whose kernels were timed (docs/measurements.md, "On a
// card"), or nowhere. What is predicted from them is a prediction.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/device_table.h"

namespace strata::planner {

enum class Evidence : uint8_t { kDatasheet, kMeasured, kAssumed };

struct Figure {
  double value = 0;
  Evidence evidence = Evidence::kAssumed;
};

/// Rates are in bytes or operations per second (multiply and add count as two), times in
/// microseconds.
struct DeviceProfile {
  std::string_view name;   // "rtx4090"
  std::string_view title;  // "NVIDIA GeForce RTX 4090"
  // Facts of the chip, from its datasheet and the programming guide.
  uint32_t capability = 0;
  uint32_t n_multiprocessors = 0;
  uint64_t l2_bytes = 0;
  uint64_t shared_bytes_per_block = 0;
  // The card.
  Figure hbm_bytes;
  Figure hbm_bytes_per_s;    // peak
  Figure hbm_efficiency;     // share of the peak that kernels get
  Figure f16_tensor_flops;   // dense, summed in f32; peak
  Figure f32_flops;          // peak
  Figure int8_flops;         // dot products of four bytes outside the tensor cores; peak
  Figure flop_efficiency;    // share of a peak that kernels get
  Figure attend_efficiency;  // the same of attention of many rows, by the tensor cores
  Figure gemv_efficiency;    // share of what kernels get of HBM that products of few rows get
  Figure launch_us;          // start of a kernel behind another of its stream
  Figure graph_launch_us;    // the same inside a graph
  // The link, each direction by itself: a copy takes alpha + bytes / rate.
  Figure in_alpha_us, in_bytes_per_s;    // host to device
  Figure out_alpha_us, out_bytes_per_s;  // device to host
  // The machine around it.
  Figure dram_bytes;
  Figure dram_bytes_per_s;        // shared by all that reads or writes it
  Figure cpu_attend_bytes_per_s;  // attention of the CPU over K and V in DRAM
  Figure cpu_gemv_bytes_per_s;    // matrix times vector on the CPU
  Figure nvme_alpha_us, nvme_bytes_per_s, nvme_queue_depth;

  double f16_tensor_rate() const { return f16_tensor_flops.value * flop_efficiency.value; }
  double attend_rate() const { return f16_tensor_flops.value * attend_efficiency.value; }
  double f32_rate() const { return f32_flops.value * flop_efficiency.value; }
  double int8_rate() const { return int8_flops.value * flop_efficiency.value; }
  double hbm_rate() const { return hbm_bytes_per_s.value * hbm_efficiency.value; }
  double gemv_rate() const { return hbm_rate() * gemv_efficiency.value; }
};

/// Every profile. The place in the list is the ordinal of the virtual device.
std::span<const DeviceProfile> device_profiles();

/// The profile of that name. Errors: kUsage, which names every profile.
const DeviceProfile& device_profile(std::string_view name);

/// The profile that is most like a card: of the nearest capability, then of the nearest number of
/// multiprocessors, then of the nearest memory, by which alone some cards differ.
const DeviceProfile& nearest_profile(const DeviceFacts& facts);

struct NamedFigure {
  std::string_view name;  // "hbm_bytes_per_s"
  Figure figure;
};
/// All figures of a profile, in the order above.
std::vector<NamedFigure> profile_figures(const DeviceProfile& profile);

std::string_view evidence_name(Evidence evidence);  // "datasheet", "measured", "assumed"

}  // namespace strata::planner
