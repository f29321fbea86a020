#include "tools/gpu/gpu_bench.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "base/host_memory.h"

namespace strata::gpu_bench {
namespace {

constexpr double kBatchUs = 400;     // a batch of short runs lasts about so long
constexpr uint32_t kBatchRuns = 64;  // at most
constexpr double kQueueUs = 15;      // the host takes for one run, at most (a few launches)
constexpr uint32_t kBatchesMax = 100;
constexpr uint32_t kCeilingRuns = 10;

/// Words of two f16 with bit 14 of each off, which also makes f32 of an exponent below 2.
std::vector<uint32_t> random_chunk(uint64_t bytes, uint32_t seed) {
  std::vector<uint32_t> words((bytes + 3) / 4);
  uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
  for (uint32_t& word : words) {
    state ^= state << 13;  // xorshift64
    state ^= state >> 7;
    state ^= state << 17;
    word = static_cast<uint32_t>(state >> 16) & 0xBFFFBFFFu;
  }
  return words;
}

std::string text(const char* format, double value) {
  char line[48];
  (void)std::snprintf(line, sizeof line, format, value);
  return line;
}

double median_of(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double percentile_of(std::vector<double> sorted, double share) {
  const double at = share * static_cast<double>(sorted.size() - 1);
  return sorted[static_cast<size_t>(std::lround(at))];
}

/// FLOP per clock of one multiprocessor: f16 products, f32 sums, dense (the whitepapers of GA100,
/// GA102, AD102, GH100, GB202). The GeForce cards of 8.6, 8.9 and 12.0 have half of what
/// workstation cards of the same capability have.
double tensor_flop_per_clock(uint32_t capability) {
  switch (capability) {
    case 80:
      return 2048;
    case 86:
    case 89:
    case 120:
      return 512;
    case 90:
      return 4096;
    default:
      return 0;
  }
}

}  // namespace

std::string bench_head() {
  return "| bench | us | spread | GB/s | TFLOP/s | share of | % | note |\n"
         "|---|---:|---:|---:|---:|---|---:|---|";
}

std::string bench_line(const BenchRow& row) {
  const double us = std::max(row.us, 1e-9);
  const auto rate = [us](uint64_t amount, double unit, const char* format) {
    return amount == 0 ? "" : text(format, static_cast<double>(amount) / us / unit);
  };
  const std::string share = row.share > 0 ? text("%.1f", row.share * 100) : "";
  std::string line = "|";
  for (const std::string& cell :
       {row.name, text("%.2f", row.us), text("%.1f %%", row.spread * 100),
        rate(row.bytes, 1e3, "%.1f"), rate(row.flop, 1e6, "%.2f"), row.ceiling, share, row.note})
    line += " " + cell + " |";
  return line;
}

GpuBench::GpuBench(const DeviceTable& table, Device* device, bool is_small)
    : table_(table), device_(device), is_small_(is_small) {
  check(table_.create_stream(device_, &stream_));
  check(table_.create_event(device_, &begin_));
  check(table_.create_event(device_, &end_));
  check(table_.facts(device_, &facts_));
  measure_copy();
  measure_link();
}

GpuBench::~GpuBench() {
  table_.wait_stream(stream_);
  for (void* memory : memory_) table_.release(device_, memory);
  table_.destroy_event(begin_);
  table_.destroy_event(end_);
  table_.destroy_stream(stream_);
}

void GpuBench::check(int error) const {
  if (error != 0)
    throw std::runtime_error("error " + std::to_string(error) + ": " + table_.message(error));
}

double GpuBench::tensor_flop_per_s() const {
  return tensor_flop_per_clock(facts_.capability) * facts_.n_multiprocessors * facts_.clock_khz *
         1e3;
}

void GpuBench::measure_copy() {
  const uint64_t wanted = is_small_ ? uint64_t{1} << 20 : uint64_t{512} << 20;
  copy_bytes_ = std::min(wanted, facts_.free_bytes / 8) & ~uint64_t{0xFFFF};
  copy_from_ = make(copy_bytes_);
  copy_to_ = make(copy_bytes_);
  check(table_.fill(stream_, copy_from_, 0, copy_bytes_));
  const auto run = [this](uint32_t) {
    check(table_.copy(stream_, copy_to_, copy_from_, copy_bytes_));
  };
  std::vector<double> us(kCeilingRuns);
  time_batch(run, 0, 1);
  for (double& one : us) one = time_batch(run, 0, 1);
  copy_rate_ = 2 * static_cast<double>(copy_bytes_) / (median_of(us) * 1e-6);
}

void GpuBench::measure_link() {
  const uint64_t bytes = std::min(copy_bytes_, uint64_t{256} << 20);
  const HostMemory host = HostMemory::reserve(bytes);
  std::memset(host.data(), 1, bytes);
  void* mapped = nullptr;
  check(table_.pin(device_, host.data(), host.size(), &mapped));
  const auto run = [&](uint32_t) { check(table_.copy(stream_, copy_to_, host.data(), bytes)); };
  std::vector<double> us(kCeilingRuns);
  for (double& one : us) one = time_batch(run, 0, 1);
  check(table_.unpin(device_, host.data()));
  link_rate_ = static_cast<double>(bytes) / (median_of(us) * 1e-6);
}

void* GpuBench::make(uint64_t bytes) {
  void* memory = nullptr;
  check(table_.allocate(device_, std::max<uint64_t>(bytes, 1), &memory));
  memory_.push_back(memory);
  return memory;
}

void* GpuBench::random_bytes(uint64_t bytes, uint32_t seed) {
  auto* memory = static_cast<std::byte*>(make(bytes));
  uint64_t filled = std::min(bytes, uint64_t{8} << 20);
  const std::vector<uint32_t> chunk = random_chunk(filled, seed);
  check(table_.copy(stream_, memory, chunk.data(), filled));
  for (; filled < bytes; filled *= 2)
    check(table_.copy(stream_, memory + filled, memory, std::min(filled, bytes - filled)));
  check(table_.wait_stream(stream_));
  return memory;
}

void GpuBench::keep_busy(double us) {
  if (copy_rate_ <= 0 || is_small_) return;
  double left = us * 1e-6 * copy_rate_ / 2;  // bytes
  for (; left > 0; left -= static_cast<double>(copy_bytes_)) {
    const auto bytes = static_cast<uint64_t>(std::min(left, static_cast<double>(copy_bytes_)));
    check(table_.copy(stream_, copy_to_, copy_from_, std::max<uint64_t>(bytes, 16)));
  }
}

/// Microseconds of all runs together.
double GpuBench::time_batch(const std::function<void(uint32_t)>& run, uint32_t first,
                            uint32_t n_runs) {
  keep_busy(100 + kQueueUs * n_runs);
  check(table_.record(stream_, begin_));
  for (uint32_t i = 0; i < n_runs; ++i) run(first + i);
  check(table_.record(stream_, end_));
  check(table_.wait_event(end_));
  float ms = 0;
  check(table_.elapsed_ms(begin_, end_, &ms));
  return std::max(double{ms} * 1e3, 1e-3);
}

BenchRow GpuBench::time(const std::string& name, const std::function<void(uint32_t)>& run,
                        double seconds_max) {
  BenchRow row;
  row.name = name;
  uint32_t next = 0;
  row.us = time_batch(run, next++, 1);  // the first run loads the kernel
  if (is_small_) return row;
  const double one_us = time_batch(run, next, 2) / 2;
  next += 2;
  const auto n_runs = static_cast<uint32_t>(std::clamp(kBatchUs / one_us, 1.0, double{kBatchRuns}));
  const double batch_us = one_us * n_runs + 100 + kQueueUs * n_runs;
  const double fitting = seconds_max * 1e6 / batch_us;
  const auto n_batches = static_cast<uint32_t>(std::clamp(fitting, 3.0, double{kBatchesMax}));
  std::vector<double> us;
  for (uint32_t i = 0; i < n_batches; ++i, next += n_runs)
    us.push_back(time_batch(run, next, n_runs) / n_runs);
  std::ranges::sort(us);
  row.us = us[us.size() / 2];
  row.spread = (percentile_of(us, 0.9) - percentile_of(us, 0.1)) / row.us;
  return row;
}

void GpuBench::add(BenchRow row) {
  const double seconds = std::max(row.us, 1e-9) * 1e-6;
  const double bytes_per_s = static_cast<double>(row.bytes) / seconds;
  if (row.share == 0 && row.ceiling == "copy") row.share = bytes_per_s / copy_rate_;
  if (row.share == 0 && row.ceiling == "link") row.share = bytes_per_s / link_rate_;
  if (row.share == 0 && row.ceiling == "tensor" && tensor_flop_per_s() > 0)
    row.share = static_cast<double>(row.flop) / seconds / tensor_flop_per_s();
  std::printf("%s\n", bench_line(row).c_str());
  (void)std::fflush(stdout);
  rows_.push_back(std::move(row));
}

}  // namespace strata::gpu_bench
