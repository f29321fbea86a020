#include "tools/cli/calibrate_disk.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <numeric>
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
constexpr uint32_t kRounds = 3;
constexpr size_t kInOrderPerRound = 2;
constexpr double kInOrderS = 4;  // of passes in order: then no further one begins

enum class Way : uint8_t { kRead, kWrite };

/// Requests of one size, so many in flight, and what passes of them took.
struct Cell {
  Way way;
  uint32_t size, depth;
  uint64_t n_requests = 0;
  bool is_slow = false;  // its first requests took the time of a pass
  std::vector<double> seconds = {};
  double bytes_per_s() const { return static_cast<double>(n_requests) * size / median(seconds); }
};

class DiskTrial {
 public:
  DiskTrial(RawDisk& disk, const CalibrateOptions& options) : disk_(disk), options_(options) {
    for (const uint32_t size : kDiskSizes) {
      for (const uint32_t depth : kDiskDepths) cells_.push_back({Way::kRead, size, depth});
      for (const uint32_t depth : kDiskWriteDepths) cells_.push_back({Way::kWrite, size, depth});
    }
  }

  /// In rounds: a disk that others share gives now more and now less, and passes one after another
  /// would tell sizes and order apart by when they ran.
  void measure() {
    write_in_order();
    for (uint32_t round = 0; round < kRounds; ++round)
      for (size_t i = 0; i < cells_.size(); ++i) {
        if (i % (cells_.size() / kInOrderPerRound) == 0) read_in_order();
        run(cells_[i], round == 0);
      }
  }
  /// Bytes per second, from the median of passes.
  double read_rate() const { return static_cast<double>(disk_.bytes()) / median(read_s_); }
  double write_rate() const { return static_cast<double>(disk_.bytes()) / median(write_s_); }
  const std::vector<Cell>& cells() const { return cells_; }

 private:
  void write_in_order() {
    for (const auto begin = Clock::now();
         write_s_.empty() || (write_s_.size() < kRounds && seconds_since(begin) < kInOrderS);)
      write_s_.push_back(disk_.write_all());
  }
  void read_in_order() {
    if (read_s_.empty() || std::accumulate(read_s_.begin(), read_s_.end(), 0.0) < kInOrderS)
      read_s_.push_back(disk_.read_all(RawDisk::kLookedAtDepth));
  }

  /// A disk on which a few requests take the time that there is has been measured with these.
  void run(Cell& cell, bool is_first) {
    check_bench_cancelled(options_.cancel);
    if (is_first) {
      const uint64_t n_full = disk_requests(disk_.bytes(), cell.size, cell.depth);
      const uint64_t n_probe =
          std::min<uint64_t>(n_full, std::max<uint64_t>(kRequestsMin, cell.depth));
      const double probe_s = pass(cell, n_probe);
      const double pass_s = options_.disk_s_max / static_cast<double>(cells_.size()) / kRounds;
      if (probe_s >= pass_s) {
        cell.n_requests = n_probe;
        cell.is_slow = true;
        cell.seconds.push_back(probe_s);
        return;
      }
      cell.n_requests = requests_within(pass_s, n_probe, probe_s, n_full);
    }
    if (cell.is_slow) return;
    cell.seconds.push_back(pass(cell, cell.n_requests));
  }

  double pass(const Cell& cell, uint64_t n) {
    const std::vector<uint64_t> places = disk_.draw(n, cell.size, /*is_sorted=*/true);
    return cell.way == Way::kRead ? disk_.read(places, cell.size, cell.depth)
                                  : disk_.write(places, cell.size, cell.depth);
  }

  RawDisk& disk_;
  const CalibrateOptions& options_;
  std::vector<Cell> cells_;
  std::vector<double> read_s_, write_s_;
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
  disk.look_at_bytes(true);
  trial.measure();
  disk.look_at_bytes(false);  // pairs have a thread that computes
  profile.disk_is_direct = disk.is_direct();
  profile.disk_write_bytes_per_s = trial.write_rate();
  profile.disk_read_bytes_per_s = trial.read_rate();
  options.on_figure(
      fmt::format("disk ({}, {}): reads {:.2f} GB/s, writes {:.2f} GB/s in order", disk.io_name(),
                  disk.is_direct() ? "past the page cache" : "THROUGH the page cache",
                  profile.disk_read_bytes_per_s / 1e9, profile.disk_write_bytes_per_s / 1e9));
  std::vector<planner::TimeSample> alone;
  std::string written;
  for (const Cell& cell : trial.cells()) {
    const double rate = cell.bytes_per_s();
    auto& rates = cell.way == Way::kRead ? profile.disk_read : profile.disk_write;
    rates.push_back({cell.size, cell.depth, rate});
    if (cell.way == Way::kRead && cell.depth == 1)
      alone.push_back({static_cast<double>(cell.size), cell.size / rate});
    if (cell.way == Way::kWrite && cell.depth == kDiskWriteDepths[std::size(kDiskWriteDepths) - 1])
      written += fmt::format("{}{:.0f} of {} KiB", written.empty() ? "" : ", ", rate / 1e6,
                             cell.size >> 10);
  }
  profile.disk_alone = planner::fit_rate(alone);
  options.on_figure(fmt::format("disk, one request at a time: {:.0f} us + bytes / {:.2f} GB/s",
                                profile.disk_alone.alpha_us, profile.disk_alone.bytes_per_s / 1e9));
  options.on_figure(fmt::format("disk, writes, {} in flight, MB/s: {}",
                                profile.disk_write.back().depth, written));
}

}  // namespace strata::cli
