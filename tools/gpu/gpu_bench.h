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
  double share = 0;     // of that ceiling in this run; 0 = add() works it out
  std::string note;
};

/// The rows as lines of a Markdown table, and its head.
std::string bench_head();
std::string bench_line(const BenchRow& row);

class GpuBench {
 public:
  /// Measures the ceilings: a device copy (bytes read + written per second), the link from pinned
  /// memory. `is_small` is a dry run, of the emulator: one run of everything, and benches that look
  /// at it take their smallest shape alone.
  GpuBench(const DeviceTable& table, Device* device, bool is_small = false);
  ~GpuBench();
  GpuBench(const GpuBench&) = delete;
  GpuBench& operator=(const GpuBench&) = delete;

  const DeviceTable& table() const { return table_; }
  Device* device() const { return device_; }
  DeviceStream* stream() const { return stream_; }
  const DeviceFacts& facts() const { return facts_; }
  double copy_bytes_per_s() const { return copy_rate_; }
  double link_bytes_per_s() const { return link_rate_; }  // host to device
  /// Of the tensor cores, f16 with sums in f32, dense, at the highest clock; 0 = not known.
  double tensor_flop_per_s() const;
  bool is_small() const { return is_small_; }
  /// Throws std::runtime_error where `error` is one.
  void check(int error) const;

  /// Memory until the bench ends, filled from `seed` with random bytes that are finite as f16
  /// (exponents of values below 2); large ones are filled on the device.
  void* random_bytes(uint64_t bytes, uint32_t seed);
  void* make(uint64_t bytes);

  /// Queues `run(i)` many times, i counting runs, so that a run can take the next of several input
  /// sets; the median of the time of one, over batches queued behind a copy, so that the device
  /// never waits for the host. Three batches at least, 100 at most, for about `seconds_max`.
  BenchRow time(const std::string& name, const std::function<void(uint32_t)>& run,
                double seconds_max = 0.5);
  /// Queues copies that last about so long: the host gets ahead by them.
  void keep_busy(double us);
  /// Prints the row, too.
  void add(BenchRow row);
  const std::vector<BenchRow>& rows() const { return rows_; }

 private:
  const DeviceTable& table_;
  Device* device_;
  DeviceStream* stream_ = nullptr;
  DeviceFacts facts_{};
  double copy_rate_ = 0;
  double link_rate_ = 0;
  bool is_small_;
  void* copy_from_ = nullptr;  // of the copies that measure and that keep the device busy
  void* copy_to_ = nullptr;
  uint64_t copy_bytes_ = 0;
  DeviceEvent* begin_ = nullptr;
  DeviceEvent* end_ = nullptr;
  std::vector<void*> memory_;
  std::vector<BenchRow> rows_;

  void measure_copy();
  void measure_link();
  double time_batch(const std::function<void(uint32_t)>& run, uint32_t first, uint32_t n_runs);
};

/// The benches of a subject, in this folder's bench_<subject>.cc.
void bench_attend(GpuBench& bench);
void bench_linear(GpuBench& bench);
void bench_wide_linear(GpuBench& bench);
void bench_prefill(GpuBench& bench);
void bench_rows(GpuBench& bench);
void bench_scan(GpuBench& bench);
void bench_link(GpuBench& bench);   // copies, pinned memory, launches, graphs
void bench_model(GpuBench& bench);  // whole steps of an 8B model

}  // namespace strata::gpu_bench
