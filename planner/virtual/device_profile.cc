#include "planner/virtual/device_profile.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>

#include "base/error.h"

namespace strata::planner {
namespace {

constexpr uint64_t kKiB = 1024, kMiB = 1024 * kKiB;
constexpr double kGiB = 1024.0 * 1024 * 1024;
constexpr double kGiga = 1e9, kTera = 1e12;

constexpr Figure sheet(double value) { return {value, Evidence::kDatasheet}; }
constexpr Figure measured(double value) { return {value, Evidence::kMeasured}; }
constexpr Figure assumed(double value) { return {value, Evidence::kAssumed}; }

constexpr uint64_t kSharedOfGeForce = 99 * kKiB;
constexpr uint64_t kSharedOfHopper = 227 * kKiB;

// Peaks are those at boost clock. GeForce cards sum f16 products in f32 at half the rate of their
// f16 sums, and the figure is that half. A dot product of four bytes issues at half the rate of an
// f32 multiply-add on GeForce and Hopper alike, so int8 is twice f32. Those of h200 that are called
// measured are of kernels alone, timed by tools/gpu_check.sh (docs/measurements.md, "On a card"): a
// copy inside its memory, a product of 512 rows, attention of 512 rows at 32,768 positions,
// products of one row less their launches, launches, the link. No time of a model went into them.
constexpr DeviceProfile kProfiles[] = {
    {.name = "rtx3060",
     .title = "NVIDIA GeForce RTX 3060 12 GB",
     .capability = 86,
     .n_multiprocessors = 28,
     .l2_bytes = 3 * kMiB,
     .shared_bytes_per_block = kSharedOfGeForce,
     .hbm_bytes = sheet(12 * kGiB),
     .hbm_bytes_per_s = sheet(360 * kGiga),
     .hbm_efficiency = assumed(0.88),
     .f16_tensor_flops = sheet(25.5 * kTera),
     .f32_flops = sheet(12.7 * kTera),
     .int8_flops = assumed(25.5 * kTera),
     .flop_efficiency = assumed(0.6),
     .attend_efficiency = assumed(0.6),
     .gemv_efficiency = assumed(1),
     .launch_us = assumed(4),
     .graph_launch_us = assumed(1.5),
     .in_alpha_us = assumed(10),
     .in_bytes_per_s = assumed(24 * kGiga),
     .out_alpha_us = assumed(10),
     .out_bytes_per_s = assumed(24 * kGiga),
     .dram_bytes = assumed(64 * kGiB),
     .dram_bytes_per_s = assumed(40 * kGiga),
     .cpu_attend_bytes_per_s = assumed(34 * kGiga),
     .cpu_gemv_bytes_per_s = assumed(34 * kGiga),
     .nvme_alpha_us = assumed(100),
     .nvme_bytes_per_s = assumed(3.5 * kGiga),
     .nvme_queue_depth = assumed(32)},
    {.name = "rtx4070",
     .title = "NVIDIA GeForce RTX 4070 12 GB",
     .capability = 89,
     .n_multiprocessors = 46,
     .l2_bytes = 36 * kMiB,
     .shared_bytes_per_block = kSharedOfGeForce,
     .hbm_bytes = sheet(12 * kGiB),
     .hbm_bytes_per_s = sheet(504 * kGiga),
     .hbm_efficiency = assumed(0.88),
     .f16_tensor_flops = sheet(58.3 * kTera),
     .f32_flops = sheet(29.1 * kTera),
     .int8_flops = assumed(58.2 * kTera),
     .flop_efficiency = assumed(0.6),
     .attend_efficiency = assumed(0.6),
     .gemv_efficiency = assumed(1),
     .launch_us = assumed(4),
     .graph_launch_us = assumed(1.5),
     .in_alpha_us = assumed(9),
     .in_bytes_per_s = assumed(25 * kGiga),
     .out_alpha_us = assumed(9),
     .out_bytes_per_s = assumed(25 * kGiga),
     .dram_bytes = assumed(64 * kGiB),
     .dram_bytes_per_s = assumed(60 * kGiga),
     .cpu_attend_bytes_per_s = assumed(50 * kGiga),
     .cpu_gemv_bytes_per_s = assumed(50 * kGiga),
     .nvme_alpha_us = assumed(80),
     .nvme_bytes_per_s = assumed(7 * kGiga),
     .nvme_queue_depth = assumed(64)},
    {.name = "rtx4090",
     .title = "NVIDIA GeForce RTX 4090",
     .capability = 89,
     .n_multiprocessors = 128,
     .l2_bytes = 72 * kMiB,
     .shared_bytes_per_block = kSharedOfGeForce,
     .hbm_bytes = sheet(24 * kGiB),
     .hbm_bytes_per_s = sheet(1008 * kGiga),
     .hbm_efficiency = assumed(0.88),
     .f16_tensor_flops = sheet(165.2 * kTera),
     .f32_flops = sheet(82.6 * kTera),
     .int8_flops = assumed(165.2 * kTera),
     .flop_efficiency = assumed(0.6),
     .attend_efficiency = assumed(0.6),
     .gemv_efficiency = assumed(1),
     .launch_us = assumed(4),
     .graph_launch_us = assumed(1.5),
     .in_alpha_us = assumed(8),
     .in_bytes_per_s = assumed(25 * kGiga),
     .out_alpha_us = assumed(8),
     .out_bytes_per_s = assumed(25 * kGiga),
     .dram_bytes = assumed(128 * kGiB),
     .dram_bytes_per_s = assumed(70 * kGiga),
     .cpu_attend_bytes_per_s = assumed(60 * kGiga),
     .cpu_gemv_bytes_per_s = assumed(60 * kGiga),
     .nvme_alpha_us = assumed(80),
     .nvme_bytes_per_s = assumed(7 * kGiga),
     .nvme_queue_depth = assumed(64)},
    {.name = "rtx5090",
     .title = "NVIDIA GeForce RTX 5090",
     .capability = 120,
     .n_multiprocessors = 170,
     .l2_bytes = 96 * kMiB,
     .shared_bytes_per_block = kSharedOfGeForce,
     .hbm_bytes = sheet(32 * kGiB),
     .hbm_bytes_per_s = sheet(1792 * kGiga),
     .hbm_efficiency = assumed(0.88),
     .f16_tensor_flops = sheet(209.5 * kTera),
     .f32_flops = sheet(104.8 * kTera),
     .int8_flops = assumed(209.6 * kTera),
     .flop_efficiency = assumed(0.6),
     .attend_efficiency = assumed(0.6),
     .gemv_efficiency = assumed(1),
     .launch_us = assumed(4),
     .graph_launch_us = assumed(1.5),
     .in_alpha_us = assumed(8),
     .in_bytes_per_s = assumed(50 * kGiga),
     .out_alpha_us = assumed(8),
     .out_bytes_per_s = assumed(50 * kGiga),
     .dram_bytes = assumed(128 * kGiB),
     .dram_bytes_per_s = assumed(80 * kGiga),
     .cpu_attend_bytes_per_s = assumed(68 * kGiga),
     .cpu_gemv_bytes_per_s = assumed(68 * kGiga),
     .nvme_alpha_us = assumed(70),
     .nvme_bytes_per_s = assumed(12 * kGiga),
     .nvme_queue_depth = assumed(64)},
    {.name = "laptop8",
     .title = "NVIDIA GeForce RTX 4060 Laptop 8 GB",
     .capability = 89,
     .n_multiprocessors = 24,
     .l2_bytes = 32 * kMiB,
     .shared_bytes_per_block = kSharedOfGeForce,
     .hbm_bytes = sheet(8 * kGiB),
     .hbm_bytes_per_s = sheet(256 * kGiga),
     .hbm_efficiency = assumed(0.88),
     .f16_tensor_flops = assumed(23 * kTera),  // the clock depends on the laptop's power limit
     .f32_flops = assumed(11.6 * kTera),
     .int8_flops = assumed(23 * kTera),
     .flop_efficiency = assumed(0.6),
     .attend_efficiency = assumed(0.6),
     .gemv_efficiency = assumed(1),
     .launch_us = assumed(5),
     .graph_launch_us = assumed(2),
     .in_alpha_us = assumed(10),
     .in_bytes_per_s = assumed(12 * kGiga),  // eight lanes
     .out_alpha_us = assumed(10),
     .out_bytes_per_s = assumed(12 * kGiga),
     .dram_bytes = assumed(32 * kGiB),
     .dram_bytes_per_s = assumed(60 * kGiga),
     .cpu_attend_bytes_per_s = assumed(45 * kGiga),
     .cpu_gemv_bytes_per_s = assumed(45 * kGiga),
     .nvme_alpha_us = assumed(100),
     .nvme_bytes_per_s = assumed(3.5 * kGiga),
     .nvme_queue_depth = assumed(32)},
    {.name = "h100",
     .title = "NVIDIA H100 80GB SXM",
     .capability = 90,
     .n_multiprocessors = 132,
     .l2_bytes = 50 * kMiB,
     .shared_bytes_per_block = kSharedOfHopper,
     .hbm_bytes = sheet(80 * kGiB),
     .hbm_bytes_per_s = sheet(3350 * kGiga),
     .hbm_efficiency = assumed(0.88),
     .f16_tensor_flops = sheet(989 * kTera),
     .f32_flops = sheet(67 * kTera),
     .int8_flops = assumed(134 * kTera),
     .flop_efficiency = assumed(0.45),  // mma.sync, without the asynchronous instructions
     .attend_efficiency = assumed(0.45),
     .gemv_efficiency = assumed(1),
     .launch_us = assumed(4),
     .graph_launch_us = assumed(1.5),
     .in_alpha_us = assumed(8),
     .in_bytes_per_s = assumed(50 * kGiga),
     .out_alpha_us = assumed(8),
     .out_bytes_per_s = assumed(50 * kGiga),
     .dram_bytes = assumed(256 * kGiB),
     .dram_bytes_per_s = assumed(200 * kGiga),
     .cpu_attend_bytes_per_s = assumed(120 * kGiga),
     .cpu_gemv_bytes_per_s = assumed(120 * kGiga),
     .nvme_alpha_us = assumed(80),
     .nvme_bytes_per_s = assumed(7 * kGiga),
     .nvme_queue_depth = assumed(64)},
    {.name = "h200",
     .title = "NVIDIA H200 141GB SXM",
     .capability = 90,
     .n_multiprocessors = 132,
     .l2_bytes = 50 * kMiB,
     .shared_bytes_per_block = kSharedOfHopper,
     .hbm_bytes = sheet(141 * kGiB),
     .hbm_bytes_per_s = sheet(4800 * kGiga),
     .hbm_efficiency = measured(0.86),
     .f16_tensor_flops = sheet(989 * kTera),
     .f32_flops = sheet(67 * kTera),
     .int8_flops = assumed(134 * kTera),
     .flop_efficiency = measured(0.28),
     .attend_efficiency = measured(0.37),
     .gemv_efficiency = measured(0.81),
     .launch_us = measured(2.8),
     .graph_launch_us = measured(1.8),
     .in_alpha_us = measured(2.5),
     .in_bytes_per_s = measured(55.4 * kGiga),
     .out_alpha_us = measured(2.5),
     .out_bytes_per_s = measured(55.4 * kGiga),
     .dram_bytes = assumed(256 * kGiB),
     .dram_bytes_per_s = assumed(200 * kGiga),
     .cpu_attend_bytes_per_s = assumed(120 * kGiga),
     .cpu_gemv_bytes_per_s = assumed(120 * kGiga),
     .nvme_alpha_us = assumed(80),
     .nvme_bytes_per_s = assumed(7 * kGiga),
     .nvme_queue_depth = assumed(64)},
};

}  // namespace

std::span<const DeviceProfile> device_profiles() { return kProfiles; }

const DeviceProfile& device_profile(std::string_view name) {
  const auto found = std::ranges::find(kProfiles, name, &DeviceProfile::name);
  if (found != std::end(kProfiles)) return *found;
  std::string names;
  for (const DeviceProfile& profile : kProfiles)
    names += (names.empty() ? "" : ", ") + std::string(profile.name);
  throw Error(ErrorCode::kUsage,
              "unknown device profile '" + std::string(name) + "', wanted one of " + names,
              std::string(name), "name one of " + names);
}

const DeviceProfile& nearest_profile(const DeviceFacts& facts) {
  const auto apart = [](double a, double b) { return std::abs(a - b); };
  const auto distance = [&](const DeviceProfile& profile) {
    return std::tuple(apart(profile.capability, facts.capability),
                      apart(profile.n_multiprocessors, facts.n_multiprocessors),
                      apart(profile.hbm_bytes.value, static_cast<double>(facts.memory_bytes)));
  };
  return *std::ranges::min_element(kProfiles, {}, distance);
}

std::vector<NamedFigure> profile_figures(const DeviceProfile& profile) {
  return {{"hbm_bytes", profile.hbm_bytes},
          {"hbm_bytes_per_s", profile.hbm_bytes_per_s},
          {"hbm_efficiency", profile.hbm_efficiency},
          {"f16_tensor_flops", profile.f16_tensor_flops},
          {"f32_flops", profile.f32_flops},
          {"int8_flops", profile.int8_flops},
          {"flop_efficiency", profile.flop_efficiency},
          {"attend_efficiency", profile.attend_efficiency},
          {"gemv_efficiency", profile.gemv_efficiency},
          {"launch_us", profile.launch_us},
          {"graph_launch_us", profile.graph_launch_us},
          {"in_alpha_us", profile.in_alpha_us},
          {"in_bytes_per_s", profile.in_bytes_per_s},
          {"out_alpha_us", profile.out_alpha_us},
          {"out_bytes_per_s", profile.out_bytes_per_s},
          {"dram_bytes", profile.dram_bytes},
          {"dram_bytes_per_s", profile.dram_bytes_per_s},
          {"cpu_attend_bytes_per_s", profile.cpu_attend_bytes_per_s},
          {"cpu_gemv_bytes_per_s", profile.cpu_gemv_bytes_per_s},
          {"nvme_alpha_us", profile.nvme_alpha_us},
          {"nvme_bytes_per_s", profile.nvme_bytes_per_s},
          {"nvme_queue_depth", profile.nvme_queue_depth}};
}

std::string_view evidence_name(Evidence evidence) {
  return evidence == Evidence::kDatasheet  ? "datasheet"
         : evidence == Evidence::kMeasured ? "measured"
                                           : "assumed";
}

}  // namespace strata::planner
