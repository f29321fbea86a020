// tools/bench_tag.cc - speed of block_tag on one thread beside reading the same blocks once, from
// DRAM and from cache. Every kernel's hash is compared with the others' before anything is timed.
// Why: a tag is checked on every read, so what it may cost is a share of what reading costs.
#include <immintrin.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include "base/check.h"
#include "base/host_memory.h"
#include "tiers/block_tag.h"
#include "tiers/hash_kernels.h"

namespace strata {
namespace {

struct Options {
  uint64_t megabytes = 512;  // the working set in DRAM
  uint64_t cached_kibibytes = 256;
  uint32_t repeats = 3;
  bool in_order = false;
  bool hint = true;
  std::string only;
};

struct Seconds {
  double wall = 0;
  double cpu = 0;  // of this thread: what a busy neighbour on the core does not lengthen
};

Seconds now() {
  timespec cpu{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
  const auto wall = std::chrono::steady_clock::now().time_since_epoch();
  return {std::chrono::duration<double>(wall).count(),
          static_cast<double>(cpu.tv_sec) + static_cast<double>(cpu.tv_nsec) * 1e-9};
}

Seconds seconds_of(const std::function<void()>& work) {
  const Seconds start = now();
  work();
  const Seconds end = now();
  return {end.wall - start.wall, end.cpu - start.cpu};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

using Bytes = std::span<const std::byte>;

/// The bytes read once: sums of words in the widest vectors there are, with block_tag's prefetches.
__attribute__((target("avx512f"))) uint64_t sum_avx512(Bytes block, Bytes next) {
  tiers::prefetch_next_block(block, next);
  const std::byte* bytes = block.data();
  __m512i sum[8] = {};
  for (uint64_t i = 0; i + 512 <= block.size(); i += 512) {
    for (uint64_t j = 0; j < 8; ++j) {
      __builtin_prefetch(bytes + i + 64 * j + tiers::kHashPrefetchBytes);
      sum[j] = _mm512_add_epi64(sum[j], _mm512_loadu_si512(bytes + i + 64 * j));
    }
  }
  for (uint64_t j = 1; j < 8; ++j) sum[0] = _mm512_add_epi64(sum[0], sum[j]);
  uint64_t lanes[8];
  _mm512_storeu_si512(lanes, sum[0]);
  return std::accumulate(lanes, lanes + 8, uint64_t{0});
}

__attribute__((target("avx2"))) uint64_t sum_avx2(Bytes block, Bytes next) {
  tiers::prefetch_next_block(block, next);
  const std::byte* bytes = block.data();
  __m256i sum[4] = {};
  for (uint64_t i = 0; i + 128 <= block.size(); i += 128) {
    for (uint64_t j = 0; j < 4; ++j) {
      if (j % 2 == 0) __builtin_prefetch(bytes + i + 32 * j + tiers::kHashPrefetchBytes);
      sum[j] = _mm256_add_epi64(
          sum[j], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + i + 32 * j)));
    }
  }
  for (uint64_t j = 1; j < 4; ++j) sum[0] = _mm256_add_epi64(sum[0], sum[j]);
  uint64_t lanes[4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), sum[0]);
  return std::accumulate(lanes, lanes + 4, uint64_t{0});
}

using BlockWork = std::function<uint64_t(Bytes block, Bytes next)>;

/// The order in which a pass meets the blocks, cut into slices that last well under a scheduler's
/// turn.
struct Walk {
  const std::byte* memory = nullptr;
  uint64_t block_bytes = 0;
  std::vector<uint32_t> blocks;
  uint64_t blocks_per_slice = 0;
  uint64_t passes_per_slice = 1;  // of a working set smaller than a slice
  bool hints = true;              // the work is told the block after

  Bytes block(uint64_t slice, uint64_t i) const {
    return {memory + blocks[slice * blocks_per_slice + i] * block_bytes, block_bytes};
  }
  uint64_t n_slices() const { return blocks.size() / blocks_per_slice; }
  double slice_bytes() const {
    return static_cast<double>(blocks_per_slice * passes_per_slice * block_bytes);
  }
  Seconds time_slice(uint64_t slice, const BlockWork& work) const {
    static volatile uint64_t sink = 0;
    return seconds_of([&] {
      for (uint64_t pass = 0; pass < passes_per_slice; ++pass) {
        for (uint64_t i = 0; i < blocks_per_slice; ++i)
          sink = sink + work(block(slice, i),
                             hints && i + 1 < blocks_per_slice ? block(slice, i + 1) : Bytes());
      }
    });
  }
};

constexpr uint64_t kSliceBytes = uint64_t{8} << 20;

Walk make_walk(const HostMemory& memory, uint64_t bytes, uint64_t block_bytes,
               const Options& options) {
  Walk walk{memory.data(), block_bytes, std::vector<uint32_t>(bytes / block_bytes)};
  std::iota(walk.blocks.begin(), walk.blocks.end(), 0u);
  walk.hints = options.hint;
  if (!options.in_order) std::shuffle(walk.blocks.begin(), walk.blocks.end(), std::mt19937(1));
  walk.blocks_per_slice = std::min<uint64_t>(kSliceBytes / block_bytes, walk.blocks.size());
  walk.passes_per_slice = std::max<uint64_t>(kSliceBytes / bytes, 1);
  return walk;
}

/// Times `hash` and `read` in turns over slices far from each other, so that neither finds the
/// other's bytes in a cache that the working set exceeds, and both meet the same busy minutes.
void bench(const std::string& name, const char* place, const Walk& walk, uint64_t n_slices,
           const BlockWork& hash, const BlockWork& read) {
  std::vector<double> hash_wall, hash_cpu, read_wall, read_cpu;
  for (uint64_t i = 0; i < n_slices; ++i) {
    const Seconds h = walk.time_slice(i % walk.n_slices(), hash);
    const Seconds r = walk.time_slice((i + walk.n_slices() / 2) % walk.n_slices(), read);
    hash_wall.push_back(h.wall);
    hash_cpu.push_back(h.cpu);
    read_wall.push_back(r.wall);
    read_cpu.push_back(r.cpu);
  }
  const double gbytes = walk.slice_bytes() * 1e-9;
  std::printf(
      "%-7s %-5s %4llu KiB   tag %6.1f GB/s (wall %6.1f)   read %6.1f GB/s (wall %6.1f)   time of "
      "tag / read %.2f (wall %.2f)\n",
      name.c_str(), place, static_cast<unsigned long long>(walk.block_bytes >> 10),
      gbytes / median(hash_cpu), gbytes / median(hash_wall), gbytes / median(read_cpu),
      gbytes / median(read_wall), median(hash_cpu) / median(read_cpu),
      median(hash_wall) / median(read_wall));
}

/// All kernels give one value, the block after changes no tag, and the sums see every byte.
void check_answers(const HostMemory& memory, const BlockWork& read) {
  for (const uint64_t n : {uint64_t{4096}, uint64_t{131072}}) {
    const tiers::Hash128 wanted = tiers::hash_bytes({memory.data(), n});
    for (const tiers::HashKernel& kernel : tiers::available_hash_kernels())
      STRATA_CHECK(kernel.hash(memory.data(), n) == wanted, "%s differs", kernel.name);
    const Bytes block(memory.data(), n);
    const Bytes next(memory.data() + 2 * n, n);
    STRATA_CHECK(tiers::block_tag({}, block, next) == tiers::block_tag({}, block),
                 "the block after changes the tag of %llu bytes",
                 static_cast<unsigned long long>(n));
    const uint64_t sum = read({memory.data(), n}, {});
    uint64_t plain = 0;
    for (const uint64_t word : memory.as<uint64_t>(n / 8)) plain += word;
    STRATA_CHECK(sum == plain, "a sum of %llu bytes is wrong", static_cast<unsigned long long>(n));
  }
}

void run(const Options& options) {
  const HostMemory memory = HostMemory::reserve(options.megabytes << 20);
  std::mt19937_64 random(1);
  for (uint64_t& word : memory.as<uint64_t>(memory.size() / 8)) word = random();
  const BlockWork read = __builtin_cpu_supports("avx512f") ? sum_avx512 : sum_avx2;
  check_answers(memory, read);
  std::printf("blocks %s of %llu MiB (DRAM) and %llu KiB (cache); medians of slices of %llu MiB\n",
              options.in_order ? "in order" : "in random order",
              static_cast<unsigned long long>(options.megabytes),
              static_cast<unsigned long long>(options.cached_kibibytes),
              static_cast<unsigned long long>(kSliceBytes >> 20));
  std::vector<std::pair<std::string, BlockWork>> rows;
  rows.emplace_back("tag",
                    [](Bytes block, Bytes next) { return tiers::block_tag({}, block, next).low; });
  for (const tiers::HashKernel& kernel : tiers::available_hash_kernels()) {
    rows.emplace_back(kernel.name, [&kernel](Bytes block, Bytes next) {
      tiers::prefetch_next_block(block, next);
      return kernel.hash(block.data(), block.size()).low;
    });
  }
  for (const auto& [name, work] : rows) {
    if (!options.only.empty() && options.only != name) continue;
    for (const uint64_t kibibytes : {4u, 8u, 16u, 128u}) {
      const Walk dram = make_walk(memory, memory.size(), kibibytes << 10, options);
      bench(name, "DRAM", dram, dram.n_slices() * options.repeats, work, read);
      const Walk cached =
          make_walk(memory, options.cached_kibibytes << 10, kibibytes << 10, options);
      bench(name, "cache", cached, 101, work, read);
    }
  }
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  strata::Options options;
  CLI::App app("Times block tags on one thread beside reading the same bytes once");
  app.add_option("--megabytes", options.megabytes, "working set in DRAM")
      ->check(CLI::Range(16u, 8192u));
  app.add_option("--cached-kibibytes", options.cached_kibibytes, "working set in cache")
      ->check(CLI::Range(128u, 4096u));
  app.add_option("--repeats", options.repeats, "passes over the working set in DRAM")
      ->check(CLI::Range(1u, 100u));
  app.add_option("--only", options.only, "only this row: tag, or the name of a kernel");
  app.add_flag("--in-order", options.in_order, "meet the blocks in the order of their addresses");
  app.add_flag("!--no-hint", options.hint, "do not tell the work the block after");
  CLI11_PARSE(app, argc, argv);
  strata::run(options);
  return 0;
}
