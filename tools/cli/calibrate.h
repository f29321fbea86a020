// tools/cli/calibrate.h - measures a machine's rates for plans: memory, disk, kernels, and what is
// left of two rates that share something. Why not the best pass: a plan wants what a machine gives
// again and again. Why not the mean: other programs make single passes slower by factors. Every
// result is checked before its rate is kept.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/kernel_table.h"
#include "base/thread_pool.h"
#include "engine/device.h"
#include "planner/machine_profile.h"
#include "tiers/open_io.h"

namespace strata::cli {

struct CalibrateOptions {
  const KernelTable* kernels = nullptr;
  std::vector<TensorType> types;    // of weights
  std::vector<uint32_t> head_dims;  // of K and V
  std::string disk_folder;          // where its test file lies, without a name; empty = no disk
  tiers::IoChoice io = tiers::IoChoice::kAuto;
  uint32_t n_passes = 31;  // over what each figure reads
  double pass_s_max = 2;   // then no further pass of a figure begins, but for the third
  double pair_s = 0.4;     // that each turn of a pair lasts
  double disk_s_max = 30;  // that requests of all sizes and depths take together
  uint64_t memory_bytes = uint64_t{128} << 20;  // that passes read: more than a cache
  uint64_t disk_bytes = uint64_t{256} << 20;    // of the test file
  uint32_t n_gemm_rows = 256;
  const std::atomic<bool>* cancel = nullptr;  // looked at between figures
  std::function<void(const std::string&)> on_figure = [](const std::string&) {};
};

/// Sizes of requests and numbers in flight that the disk is asked for.
inline constexpr uint32_t kDiskSizes[] = {4u << 10, 16u << 10, 64u << 10, 256u << 10, 1u << 20};
inline constexpr uint32_t kDiskDepths[] = {1, 8, 32, 128};
inline constexpr uint32_t kDiskWriteDepths[] = {1, 32};

/// Requests of one pass: as many bytes for every size, within what is bearable of small ones one at
/// a time, and no more than the file has places.
uint64_t disk_requests(uint64_t file_bytes, uint32_t request_bytes, uint32_t depth);

/// What is left of a rate, in (0, 1]: noise can make two together faster than one alone.
double share_left(double together, double alone);

/// Returns the number of figures whose passes differed so much that something else was running.
/// Fills the rates of `profile` but for its device's. The words are the caller's. Takes half a
/// minute on two cores, on a slow disk at most two, memory_bytes twice and the test file. Errors:
/// kIo (the disk, also where other bytes came back than were written), kCancelled. A kernel that
/// computes otherwise than the scalar one is a bug.
uint32_t calibrate(const CalibrateOptions& options, ThreadPool& pool,
                   planner::MachineProfile& profile);

/// A device's memory and its link, by the device's own events; all other rates stay 0. Takes 32 MiB
/// of pinned memory. Errors: kOutOfMemory, kDeviceLost (also where other bytes came back than were
/// sent).
planner::DeviceRates calibrate_link(const engine::OpenDevice& device);

/// What kernels are timed with: shapes of a model of eight billion weights. What a launch costs
/// beside its bytes shows in the smaller of three matrices, and a plan counts it by itself.
struct KernelTrialSizes {
  // Of weights, K and V: twice what the second cache holds, within these.
  uint64_t pool_min = uint64_t{64} << 20, pool_max = uint64_t{256} << 20;
  uint32_t n_in = 4096, n_out[3] = {2048, 4096, 14336};
  uint32_t n_rows = 512;  // of a prompt's chunk
};

/// Adds a device's kernels, of the types the slowest, attention over f16 of that head_dim, by the
/// device's own events; a rate of bytes is that of more bytes, launches apart. Changes nothing
/// where it fails. Takes pool_max of its memory and as much again. Errors: kOutOfMemory,
/// kDeviceLost.
void calibrate_kernels(const engine::OpenDevice& device, const std::vector<TensorType>& types,
                       uint32_t head_dim, planner::DeviceRates& rates,
                       const KernelTrialSizes& sizes = {});

}  // namespace strata::cli
