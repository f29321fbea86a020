#include "tools/cli/calibrate_disk.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <string>
#include <vector>

#include "base/seconds_since.h"
#include "planner/rate_fit.h"
#include "tools/cli/bench_fill.h"
#include "tools/cli/sample_statistics.h"

namespace strata::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kPassBytes = uint64_t{32} << 20;  // of requests of one size
constexpr uint64_t kRequestsMin = 32, kRequestsMax = 4096;
constexpr uint64_t kAloneMax = 512;  // of requests one at a time
constexpr uint32_t kDiskPasses = 3;
constexpr double kInOrderS = 4;  // then no further pass in order begins

enum class Way : uint8_t { kRead, kWrite };

class DiskTrial {
 public:
  DiskTrial(RawDisk& disk, const CalibrateOptions& options) : disk_(disk), options_(options) {}

  /// Bytes per second, from the median of passes.
  double in_order(Way way) {
    std::vector<double> seconds;
    for (const auto begin = Clock::now();
         seconds.empty() || (seconds.size() < kDiskPasses && seconds_since(begin) < kInOrderS);)
      seconds.push_back(way == Way::kRead ? disk_.read_all() : disk_.write_all());
    return static_cast<double>(disk_.bytes()) / median(seconds);
  }

  /// Bytes per second of requests of one size. A disk on which a few of them take the time that
  /// there is has been measured with these.
  double of_requests(Way way, uint32_t size, uint32_t depth) {
    check_bench_cancelled(options_.cancel);
    const uint64_t n_full = disk_requests(disk_.bytes(), size, depth);
    const uint64_t n_probe = std::min<uint64_t>(n_full, std::max<uint64_t>(kRequestsMin, depth));
    const double probe_s = pass(way, n_probe, size, depth);
    const double pass_s = options_.disk_s_max / kCells / kDiskPasses;
    if (probe_s >= pass_s) return static_cast<double>(n_probe) * size / probe_s;
    const uint64_t n = requests_within(pass_s, n_probe, probe_s, n_full);
    std::vector<double> seconds(kDiskPasses);
    for (double& of : seconds) of = pass(way, n, size, depth);
    return static_cast<double>(n) * size / median(seconds);
  }

 private:
  static constexpr double kCells =
      std::size(kDiskSizes) * (std::size(kDiskDepths) + std::size(kDiskWriteDepths));

  double pass(Way way, uint64_t n, uint32_t size, uint32_t depth) {
    const std::vector<uint64_t> places = disk_.draw(n, size, /*is_sorted=*/true);
    return way == Way::kRead ? disk_.read(places, size, depth) : disk_.write(places, size, depth);
  }

  RawDisk& disk_;
  const CalibrateOptions& options_;
};

}  // namespace

uint64_t disk_requests(uint64_t file_bytes, uint32_t request_bytes, uint32_t depth) {
  const uint64_t n = std::clamp(kPassBytes / request_bytes, kRequestsMin, kRequestsMax);
  return std::min(depth == 1 ? std::min(n, kAloneMax) : n, file_bytes / request_bytes);
}

uint64_t requests_within(double seconds, uint64_t n_probe, double probe_s, uint64_t n_full) {
  const double n = probe_s > 0 ? static_cast<double>(n_probe) * (seconds / probe_s) : 0;
  if (!(probe_s > 0) || n >= static_cast<double>(n_full)) return n_full;
  return std::max(n_probe, static_cast<uint64_t>(n));
}

void calibrate_disk(RawDisk& disk, const CalibrateOptions& options,
                    planner::MachineProfile& profile) {
  DiskTrial trial(disk, options);
  profile.disk_is_direct = disk.is_direct();
  profile.disk_write_bytes_per_s = trial.in_order(Way::kWrite);
  profile.disk_read_bytes_per_s = trial.in_order(Way::kRead);
  options.on_figure(
      fmt::format("disk ({}, {}): reads {:.2f} GB/s, writes {:.2f} GB/s in order", disk.io_name(),
                  disk.is_direct() ? "past the page cache" : "THROUGH the page cache",
                  profile.disk_read_bytes_per_s / 1e9, profile.disk_write_bytes_per_s / 1e9));
  std::vector<planner::TimeSample> alone;
  std::string written;
  for (const uint32_t size : kDiskSizes) {
    for (const uint32_t depth : kDiskDepths) {
      const double rate = trial.of_requests(Way::kRead, size, depth);
      profile.disk_read.push_back({size, depth, rate});
      if (depth == 1) alone.push_back({static_cast<double>(size), size / rate});
    }
    for (const uint32_t depth : kDiskWriteDepths)
      profile.disk_write.push_back({size, depth, trial.of_requests(Way::kWrite, size, depth)});
    written += fmt::format("{}{:.0f} of {} KiB", written.empty() ? "" : ", ",
                           profile.disk_write.back().bytes_per_s / 1e6, size >> 10);
  }
  profile.disk_alone = planner::fit_rate(alone);
  options.on_figure(fmt::format("disk, one request at a time: {:.0f} us + bytes / {:.2f} GB/s",
                                profile.disk_alone.alpha_us, profile.disk_alone.bytes_per_s / 1e9));
  options.on_figure(fmt::format("disk, writes, {} in flight, MB/s: {}",
                                profile.disk_write.back().depth, written));
}

}  // namespace strata::cli
