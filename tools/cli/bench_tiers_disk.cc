// tools/cli/bench_tiers_disk.cc - the figures of `bench --tiers` that need no model: the disk in
// order and in selections, tags.
#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "tools/cli/bench_tiers.h"
#include "tools/cli/sample_statistics.h"
#include "tools/cli/tag_speed.h"

namespace strata::cli {
namespace {

constexpr uint64_t kSelectedPercent = 2;
constexpr double kUsefulWanted = 0.5;           // of the rate in order
constexpr uint32_t kUsefulBytesMin = 16 << 10;  // from this block size on
constexpr double kTagWanted = 1.2;
constexpr uint64_t kTagBytes = uint64_t{128} << 20;  // more than any cache
constexpr double kHostCaches = 1.5;  // later passes this much faster than the first one

}  // namespace

void TierBench::measure_sequential(const Events& events) {
  const std::string formula = fmt::format(
      "{} requests x {}", disk_.bytes() / RawDisk::kRequestBytes, RawDisk::kRequestBytes);
  const auto figure = [&](const std::string& name) {
    return TierFigure{.name = name,
                      .formula = formula,
                      .formula_bytes = disk_.bytes(),
                      .bytes = disk_.bytes(),
                      .samples_s = {}};
  };
  TierFigure write = figure("sequential write");
  write.note = fmt::format("{} in flight, {}, {}; the first pass into places that were reserved",
                           RawDisk::kRequestsInFlight, disk_.io_name(),
                           disk_.is_direct() ? "past the page cache" : "THROUGH the page cache");
  for (uint32_t i = 0; i < options_.n_samples; ++i) write.samples_s.push_back(disk_.write_all());
  events.on_figure(write);
  TierFigure first = figure("sequential read, first");
  first.samples_s.push_back(disk_.read_all());
  TierFigure read = figure("sequential read");
  for (uint32_t i = 0; i < options_.n_samples; ++i) read.samples_s.push_back(disk_.read_all());
  const double gain = first.samples_s.front() / median(read.samples_s);
  first.note = fmt::format(
      "written a moment before by this process; later passes are {:.1f} times as fast: {}", gain,
      gain > kHostCaches ? "below the file system something caches, and they may not be the disk's"
                         : "no cache below the file system shows, or it had all of it already");
  events.on_figure(first);
  events.on_figure(read);
}

void TierBench::measure_selection(const Events& events) {
  for (const uint32_t block_bytes : {4u << 10, 8u << 10, 16u << 10, 32u << 10, 64u << 10}) {
    const uint64_t n_blocks = disk_.bytes() / block_bytes;
    const uint64_t n = std::max<uint64_t>(1, n_blocks * kSelectedPercent / 100);
    TierFigure figure{.name = fmt::format("2 % selection, {} KiB", block_bytes >> 10),
                      .formula = fmt::format("{} of {} blocks x {}", n, n_blocks, block_bytes),
                      .formula_bytes = n * block_bytes,
                      .bytes = n * block_bytes,
                      .samples_s = {},
                      .measure = "of sequential read",
                      .wanted = block_bytes >= kUsefulBytesMin ? kUsefulWanted : 0};
    for (uint32_t i = 0; i < options_.n_samples; ++i) {
      const double in_order = read_rate(disk_.read_all());
      const auto offsets = disk_.draw(n, block_bytes, /*is_sorted=*/true);
      figure.samples_s.push_back(disk_.read(offsets, block_bytes, RawDisk::kDepth));
      figure.values.push_back(static_cast<double>(figure.bytes) / figure.samples_s.back() /
                              in_order);
    }
    figure.note = fmt::format("sorted, {} in flight; {:.0f} requests/s", RawDisk::kDepth,
                              static_cast<double>(n) / median(figure.samples_s));
    events.on_figure(figure);
  }
}

void TierBench::measure_tags(const Events& events) {
  const uint64_t block_bytes = in_dram_.cache().layout().block_bytes;
  const HostMemory memory = HostMemory::reserve(kTagBytes);
  std::mt19937_64 random(1);
  for (uint64_t& word : memory.as<uint64_t>(kTagBytes / sizeof(uint64_t))) word = random();
  const BlockOrder order =
      BlockOrder::make({memory.data(), kTagBytes}, block_bytes, /*is_in_order=*/false);
  const uint64_t n_slices = std::max<uint64_t>(order.n_slices(), options_.n_samples);
  const TagTimes times = time_in_turns(order, n_slices, tag_of_block, sum_of_block);
  check_bench_cancelled(options_.cancel);
  TierFigure figure{.name = "tags of blocks",
                    .formula = fmt::format("{} blocks x {}", order.blocks_per_slice, block_bytes),
                    .formula_bytes = order.slice_bytes(),
                    .bytes = order.slice_bytes(),
                    .samples_s = times.work.cpu_s,
                    .measure = "x reading the bytes once",
                    .wanted = kTagWanted,
                    .is_at_most = true,
                    .is_share = false};
  for (size_t i = 0; i < times.work.cpu_s.size(); ++i)
    figure.values.push_back(times.work.cpu_s[i] / times.read.cpu_s[i]);
  figure.note = fmt::format("one thread's own time, random order of {} MiB; read once {:.1f} GB/s",
                            kTagBytes >> 20,
                            static_cast<double>(figure.bytes) / median(times.read.cpu_s) / 1e9);
  events.on_figure(figure);
}

}  // namespace strata::cli
