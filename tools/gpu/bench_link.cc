// What stands between a host and its card: copies by size, both directions at once, blocks that a
// kernel fetches itself, the price of pinning, of launches and of graphs. Each copy's bytes are
// compared before it is timed.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>

#include "base/host_memory.h"
#include "tools/gpu/gpu_bench.h"

namespace strata::gpu_bench {
namespace {

constexpr uint64_t kKiB = 1 << 10;
constexpr uint64_t kMiB = 1 << 20;

double us_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
      .count();
}

std::string size_name(uint64_t bytes) {
  return bytes >= kMiB ? std::to_string(bytes / kMiB) + " MiB"
                       : std::to_string(bytes / kKiB) + " KiB";
}

/// Pinned host memory with bytes that differ from place to place.
class HostBytes {
 public:
  HostBytes(GpuBench& bench, uint64_t bytes, uint32_t seed)
      : bench_(bench), memory_(HostMemory::reserve(bytes)) {
    const auto words = memory_.as<uint32_t>(memory_.size() / sizeof(uint32_t));
    for (uint32_t i = 0; uint32_t & word : words) word = seed + i++ * 2654435761u;
    bench_.check(bench_.table().pin(bench_.device(), memory_.data(), memory_.size(), &mapped_));
  }
  ~HostBytes() { bench_.table().unpin(bench_.device(), memory_.data()); }
  HostBytes(const HostBytes&) = delete;
  HostBytes& operator=(const HostBytes&) = delete;

  std::byte* host() const { return memory_.data(); }
  std::byte* mapped() const { return static_cast<std::byte*>(mapped_); }
  uint64_t size() const { return memory_.size(); }

 private:
  GpuBench& bench_;
  HostMemory memory_;
  void* mapped_ = nullptr;
};

void copy(GpuBench& bench, void* to, const void* from, uint64_t bytes) {
  bench.check(bench.table().copy(bench.stream(), to, from, bytes));
}

void wait(GpuBench& bench) { bench.check(bench.table().wait_stream(bench.stream())); }

void expect_equal(const void* a, const void* b, uint64_t bytes, const std::string& what) {
  if (std::memcmp(a, b, bytes) != 0) throw std::runtime_error(what + ": other bytes came back");
}

void add_link(GpuBench& bench, BenchRow row, uint64_t bytes) {
  row.bytes = bytes;
  row.ceiling = "link";
  bench.add(std::move(row));
}

/// Both directions at each size; from one end of the memory to the other, so that a cache of the
/// host does not answer.
void bench_sizes(GpuBench& bench) {
  const uint64_t all = bench.is_small() ? 4 * kMiB : 512 * kMiB;
  const HostBytes out(bench, all, 1);
  const HostBytes back(bench, all, 2);
  auto* memory = static_cast<std::byte*>(bench.make(all));
  copy(bench, memory, out.host(), all);
  copy(bench, back.host(), memory, all);
  wait(bench);
  expect_equal(out.host(), back.host(), all, "copy");
  for (const uint64_t bytes : {4 * kKiB, 16 * kKiB, 64 * kKiB, 256 * kKiB, kMiB, 4 * kMiB,
                               16 * kMiB, 64 * kMiB, 256 * kMiB}) {
    if (bytes > all) break;
    const uint64_t n_places = all / bytes;
    const auto place = [=](uint32_t i) { return i % n_places * bytes; };
    add_link(bench,
             bench.time(
                 "H2D " + size_name(bytes),
                 [&](uint32_t i) { copy(bench, memory + place(i), out.host() + place(i), bytes); }),
             bytes);
    add_link(bench,
             bench.time("D2H " + size_name(bytes),
                        [&](uint32_t i) {
                          copy(bench, back.host() + place(i), memory + place(i), bytes);
                        }),
             bytes);
  }
}

/// H2D and D2H at once, each on a stream; timed by the host.
void bench_both_ways(GpuBench& bench) {
  const uint64_t bytes = bench.is_small() ? 2 * kMiB : 256 * kMiB;
  const HostBytes out(bench, bytes, 1);
  const HostBytes back(bench, bytes, 2);
  auto* to = static_cast<std::byte*>(bench.make(bytes));
  auto* from = static_cast<std::byte*>(bench.make(bytes));
  copy(bench, from, out.host(), bytes);
  wait(bench);
  DeviceStream* second = nullptr;
  bench.check(bench.table().create_stream(bench.device(), &second));
  std::vector<double> us;
  for (int i = 0; i < 5; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    copy(bench, to, out.host(), bytes);
    bench.check(bench.table().copy(second, back.host(), from, bytes));
    wait(bench);
    bench.check(bench.table().wait_stream(second));
    us.push_back(us_since(begin));
  }
  bench.check(bench.table().destroy_stream(second));
  expect_equal(out.host(), back.host(), bytes, "both ways");
  std::ranges::sort(us);
  BenchRow row;
  row.name = "H2D and D2H at once, " + size_name(bytes) + " each";
  row.us = us[2];
  row.spread = (us[4] - us[0]) / us[2];
  row.note = "bytes of both; host time";
  add_link(bench, std::move(row), 2 * bytes);
}

/// Lists of n blocks in device memory: block i at base + order(i) * bytes.
std::byte** make_list(GpuBench& bench, std::byte* base, uint32_t n_blocks, uint64_t bytes,
                      bool is_scattered) {
  std::vector<std::byte*> list(n_blocks);
  for (uint32_t i = 0; i < n_blocks; ++i) {
    const uint64_t at = is_scattered ? uint64_t{i} * 7919 % n_blocks : i;  // 7919 is a prime
    list[i] = base + at * bytes;
  }
  auto* memory = static_cast<std::byte**>(bench.make(n_blocks * sizeof(std::byte*)));
  copy(bench, static_cast<void*>(memory), static_cast<const void*>(list.data()),
       n_blocks * sizeof(std::byte*));
  wait(bench);
  return memory;
}

/// Scattered blocks of pinned memory that one launch fetches or brings back, against as many
/// copies.
void bench_blocks(GpuBench& bench, uint32_t block_bytes) {
  const uint32_t n_blocks =
      static_cast<uint32_t>((bench.is_small() ? 512 * kKiB : 64 * kMiB) / block_bytes);
  const uint64_t bytes = uint64_t{n_blocks} * block_bytes;
  const HostBytes out(bench, bytes, 1);
  const HostBytes back(bench, bytes, 2);
  auto* memory = static_cast<std::byte*>(bench.make(bytes));
  std::byte** in_dram = make_list(bench, out.mapped(), n_blocks, block_bytes, true);
  std::byte** back_in_dram = make_list(bench, back.mapped(), n_blocks, block_bytes, true);
  std::byte** on_card = make_list(bench, memory, n_blocks, block_bytes, false);
  const DeviceCopyBlocksArgs fetch{
      .from = in_dram, .to = on_card, .n_blocks = n_blocks, .block_bytes = block_bytes};
  const DeviceCopyBlocksArgs bring_back{
      .from = on_card, .to = back_in_dram, .n_blocks = n_blocks, .block_bytes = block_bytes};
  const auto run = [&](const DeviceCopyBlocksArgs& args) {
    bench.check(bench.table().kernels.copy_blocks(bench.stream(), args));
  };
  run(fetch);
  run(bring_back);
  wait(bench);
  expect_equal(out.host(), back.host(), bytes, "blocks");
  const std::string what = std::to_string(n_blocks) + " blocks of " + size_name(block_bytes);
  add_link(bench, bench.time("fetch " + what, [&](uint32_t) { run(fetch); }), bytes);
  add_link(bench, bench.time("bring back " + what, [&](uint32_t) { run(bring_back); }), bytes);
  BenchRow row = bench.time("copy each of " + what, [&](uint32_t) {
    for (uint32_t i = 0; i < n_blocks; ++i)
      copy(bench, memory + uint64_t{i} * block_bytes, out.host() + uint64_t{i} * block_bytes,
           block_bytes);
  });
  row.note = "one call each";
  add_link(bench, std::move(row), bytes);
}

/// Pins and unpins memory whose pages are there already.
void bench_pinning(GpuBench& bench, bool is_huge) {
  const uint64_t bytes = bench.is_small() ? 4 * kMiB : 1024 * kMiB;
  const HostMemory memory = HostMemory::reserve(bytes);
  if (!is_huge) madvise(memory.data(), memory.size(), MADV_NOHUGEPAGE);
  std::memset(memory.data(), 1, memory.size());
  const std::string pages = std::string(is_huge ? "huge" : "4 KiB") + " pages";
  double unpin_us = 0;
  BenchRow row;
  row.name = "pin " + size_name(bytes) + " of " + pages;
  void* mapped = nullptr;
  const auto begin = std::chrono::steady_clock::now();
  bench.check(bench.table().pin(bench.device(), memory.data(), memory.size(), &mapped));
  row.us = us_since(begin);
  const auto middle = std::chrono::steady_clock::now();
  bench.check(bench.table().unpin(bench.device(), memory.data()));
  unpin_us = us_since(middle);
  row.bytes = bytes;
  row.note = "once; host time";
  bench.add(row);
  row.name = "unpin " + size_name(bytes) + " of " + pages;
  row.us = unpin_us;
  bench.add(row);
}

void add_host_row(GpuBench& bench, const std::string& name, double us, const std::string& note) {
  BenchRow row;
  row.name = name;
  row.us = us;
  row.note = note;
  bench.add(row);
}

/// The smallest operation, launched one by one and as a graph.
void bench_launches(GpuBench& bench) {
  const uint32_t n = bench.is_small() ? 10 : 1000;
  const DeviceArgmaxArgs args{.x = static_cast<float*>(bench.random_bytes(32 * sizeof(float), 1)),
                              .n_rows = 1,
                              .n = 32,
                              .value = static_cast<float*>(bench.make(sizeof(float))),
                              .index = static_cast<int32_t*>(bench.make(sizeof(int32_t)))};
  const auto launch = [&] { bench.check(bench.table().kernels.argmax(bench.stream(), args)); };
  launch();
  wait(bench);
  auto begin = std::chrono::steady_clock::now();
  for (uint32_t i = 0; i < n; ++i) launch();
  add_host_row(bench, "launch, host", us_since(begin) / n, "time of the call");
  wait(bench);
  add_host_row(bench, "launch, device", bench.time("", [&](uint32_t) { launch(); }).us,
               "from one end to the next");
  begin = std::chrono::steady_clock::now();
  for (uint32_t i = 0; i < n; ++i) {
    launch();
    wait(bench);
  }
  add_host_row(bench, "launch and wait", us_since(begin) / n, "host time");

  bench.check(bench.table().begin_capture(bench.stream()));
  for (uint32_t i = 0; i < n; ++i) launch();
  DeviceGraph* graph = nullptr;
  begin = std::chrono::steady_clock::now();
  bench.check(bench.table().end_capture(bench.stream(), &graph));
  const std::string of = " of " + std::to_string(n);
  add_host_row(bench, "graph, made", us_since(begin), "all" + of);
  bench.check(bench.table().launch_graph(bench.stream(), graph));  // the first uploads it
  wait(bench);
  begin = std::chrono::steady_clock::now();
  bench.check(bench.table().launch_graph(bench.stream(), graph));
  add_host_row(bench, "graph launch, host", us_since(begin), "all" + of);
  wait(bench);
  const BenchRow row = bench.time(
      "", [&](uint32_t) { bench.check(bench.table().launch_graph(bench.stream(), graph)); });
  add_host_row(bench, "graph launch, device", row.us / n, "each" + of);
  bench.check(bench.table().destroy_graph(graph));
}

}  // namespace

void bench_link(GpuBench& bench) {
  bench_launches(bench);
  bench_sizes(bench);
  bench_both_ways(bench);
  for (const uint32_t block_bytes : {4096u, 8192u, 16384u, 32768u})
    bench_blocks(bench, block_bytes);
  for (const bool is_huge : {true, false}) bench_pinning(bench, is_huge);
}

}  // namespace strata::gpu_bench
