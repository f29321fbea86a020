// planner/machine_profile.h - measured rates of a machine: what a plan is priced with.
// Why curves and not peaks: small requests, small copies and short vectors do not move at the rate
// of large ones, and a plan that divides bytes by a peak is wrong by factors.
//
// Rates are bytes or operations per second (multiply and add count as two), times microseconds.
// 0 = there is no such thing here, or it was not measured.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/kv_layout.h"
#include "base/tensor_type.h"

namespace strata::planner {

/// Moving or computing n bytes takes alpha + n / rate.
struct RateCurve {
  double alpha_us = 0;
  double bytes_per_s = 0;
};

/// What a disk gives for requests of one size.
struct DiskRate {
  uint32_t request_bytes = 0;
  uint32_t depth = 0;  // requests in flight
  double bytes_per_s = 0;
};

/// A matrix kernel of one weight type, all threads, at the speed of what it reads or computes.
struct LinearRate {
  TensorType type = TensorType::kF16;
  double gemv_bytes_per_s = 0;  // one row: bytes of weights as packed
  double gemm_flops = 0;        // a prompt's chunk
  double pack_bytes_per_s = 0;  // rows of a file become panels; bytes as packed
};

/// Attention over K and V of one codec and head_dim in DRAM, all threads.
struct AttendRate {
  KvCodec codec = KvCodec::kF16;
  uint32_t head_dim = 0;
  double decode_bytes_per_s = 0;  // one row; bytes of K and V
  double prefill_flops = 0;       // a prompt's chunk
  double decode_layer_us = 0;     // one row, of a layer, beside what its bytes take
};

/// Choosing for one token by a method's index: its rows, all threads.
struct IndexRate {
  std::string method;  // "rabitq"
  uint32_t head_dim = 0;
  double scan_bytes_per_s = 0;
};

/// What a step takes on the CPU beside its bytes and operations: waiting for the threads, norms,
/// RoPE, the sampler's logits. Of a small model at depth 0, walked by the engine. Each row of a
/// prompt costs besides what its norms, RoPE, activations and sums write: values of f32, by all
/// threads.
struct StepCost {
  double step_us = 0, layer_us = 0;
  double row_values_per_s = 0;
};

/// Two that share a resource, run together: what is left of each one's own rate, in (0, 1].
struct PairShare {
  std::string first, second;  // names of figures: "nvme_read", "attend", "gemv", "host_to_device"
  double first_share = 1, second_share = 1;
};

/// A graphics card and its link; none of it where there is none.
struct DeviceRates {
  uint64_t hbm_bytes = 0;
  RateCurve host_to_device = {}, device_to_host = {};  // pinned memory
  double copy_bytes_per_s = 0;  // within its memory, reads and writes counted
  double gemv_bytes_per_s = 0, attend_bytes_per_s = 0;
  double gemm_flops = 0, attend_flops = 0;
  double launch_us = 0;
};

struct MachineProfile {
  // What it is of. A profile of other words is another machine's.
  std::string cpu, cpu_isa, disk, device, driver;
  uint32_t n_threads = 0;
  std::string measured_at;   // "2026-11-26T13:20:00Z"; empty: not measured on the machine it is of
  std::string written_by;    // the program's version, whose kernels were measured
  uint32_t n_disturbed = 0;  // figures that other programs disturbed
  uint64_t dram_bytes = 0;   // of the machine
  double dram_read_bytes_per_s = 0;
  double dram_copy_bytes_per_s = 0;  // reads and writes counted
  std::vector<LinearRate> linear;    // one for each type that was measured
  std::vector<AttendRate> attend;
  std::vector<IndexRate> index;  // of methods that were measured
  StepCost step_cost;
  std::vector<DiskRate> disk_read, disk_write;  // rising in size
  // Requests of 1 MiB in order; of reads eight in flight, and every byte looked at.
  double disk_read_bytes_per_s = 0, disk_write_bytes_per_s = 0;
  RateCurve disk_alone;        // of a read with no other in flight
  bool disk_is_direct = true;  // false: measured through the page cache, which is quicker
  std::vector<PairShare> pairs;
  DeviceRates gpu;
  bool is_measured() const { return !measured_at.empty(); }
};

}  // namespace strata::planner
