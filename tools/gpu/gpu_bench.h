// tools/gpu/gpu_bench.h - times kernels on a card: medians by events, answers checked first, inputs
// rotated beyond the second cache, and shares of what a plain copy gets in the same run.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/device_table.h"

namespace strata::gpu_bench {

struct BenchRow {
  std::string name;
  double us = 0;        // median
  double spread = 0;    // (90th percentile - 10th) / median
  uint64_t bytes = 0;   // moved by formula
  uint64_t flop = 0;    // by formula; 0 = not a figure of this row
  std::string ceiling;  // what `share` is of: "copy", "link", "tensor"
  double share = 0;     // of that ceiling, measured in this run
  std::string note;
};

class GpuBench {
 public:
  /// Measures the ceilings: a device copy (bytes read + written per second), the link both ways
  /// from pinned memory.
  GpuBench(const DeviceTable& table, Device* device);
  ~GpuBench();
  GpuBench(const GpuBench&) = delete;
  GpuBench& operator=(const GpuBench&) = delete;

  const DeviceTable& table() const { return table_; }
  Device* device() const { return device_; }
  DeviceStream* stream() const { return stream_; }
  const DeviceFacts& facts() const { return facts_; }
  double copy_bytes_per_s() const { return copy_rate_; }
  double link_bytes_per_s() const { return link_rate_; }  // host to device
  void check(int error) const;

  /// Memory until the bench ends, filled from `seed` with random bytes that are finite as f16
  /// (exponents of values below 2); large ones are filled on the device.
  void* random_bytes(uint64_t bytes, uint32_t seed);
  void* make(uint64_t bytes);

  /// Queues `run(i)` many times, i counting runs, so that a run can take the next of several input
  /// sets; the median of the time of one. At least 20 runs, at most `seconds_max`.
  BenchRow time(const std::string& name, const std::function<void(uint32_t)>& run,
                double seconds_max = 0.5);
  void add(BenchRow row);
  const std::vector<BenchRow>& rows() const { return rows_; }

 private:
  const DeviceTable& table_;
  Device* device_;
  DeviceStream* stream_ = nullptr;
  DeviceFacts facts_{};
  double copy_rate_ = 0;
  double link_rate_ = 0;
  std::vector<void*> memory_;
  std::vector<BenchRow> rows_;
};

/// The benches of a subject, in this folder's bench_<subject>.cc.
void bench_attend(GpuBench& bench);
void bench_linear(GpuBench& bench);
void bench_wide_linear(GpuBench& bench);
void bench_prefill(GpuBench& bench);
void bench_rows(GpuBench& bench);

}  // namespace strata::gpu_bench
