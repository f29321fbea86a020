// tools/bench_index.cc - speed of the kernels of retrieval on one thread, per instruction set:
// tiles from DRAM and from cache, beside plain reading of the same tiles and beside DRAM's
// bandwidth. The answers of every set are compared with the scalar set's before anything is timed.
// Why: a token reads the index of its whole context, so the two scans are wanted at the speed of
// memory: at most 1.5 times the time that reading takes. With --trace it prints what
// tools/eval/trace_methods.h measures instead.
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include "base/check.h"
#include "base/error.h"
#include "base/half.h"
#include "base/host_memory.h"
#include "cpu_attn/index.h"
#include "tools/cli/dram_read.h"
#include "tools/cli/sample_statistics.h"
#include "tools/eval/trace_methods.h"

namespace strata {
namespace {

constexpr double kTraceShare = 0.25;  // of the positions, that a choice attends

struct Options {
  uint64_t megabytes = 512;  // tiles in DRAM
  uint64_t cached_kibibytes = 256;
  uint32_t repeats = 3;
  std::vector<uint32_t> dims = {128, 256};
  std::vector<uint32_t> queries = {1, 3, 4, 8, 96};
  bool in_order = false;
  std::string only;
  std::string trace;
};

/// Seconds of this thread: what a busy neighbour on the core does not lengthen.
double cpu_seconds() {
  timespec now{};
  (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

/// The sets of this CPU, also AVX-512 without BF16 and VBMI.
std::vector<KernelTable> index_tables() {
  std::vector<KernelTable> tables(1);
  cpu_attn::fill_index_scalar(tables[0]);
  tables[0].name = "scalar";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    cpu_attn::fill_index_avx2(tables.emplace_back());
    tables.back().name = "avx2";
  }
  if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vnni"))
    return tables;
  cpu_attn::fill_index_avx512(tables.emplace_back());
  tables.back().name = "avx512";
  if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi")) {
    cpu_attn::fill_index_avx512(tables.emplace_back());
    cpu_attn::fill_index_digest_avx512bf16(tables.back());
    cpu_attn::fill_index_pq_avx512vbmi(tables.back());
    tables.back().name = "avx512+";  // BF16 and VBMI
  }
  return tables;
}

uint16_t bf16_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>(bits >> 16);
}

/// What a scan reads besides the tiles, and where its scores go.
struct Queries {
  Queries(uint32_t count, uint32_t dims, uint64_t n_tiles_max)
      : n(count),
        n_dims(dims),
        q(uint64_t{count} * dims),
        tables(uint64_t{count} * kPqSubspaces * kPqCentroids),
        scales(count, 0.01f),
        offsets(count, -1.0f),
        n_codes(uint64_t{rabitq_groups(dims)} * kRabitqGroup),
        codes(count * n_codes),
        sums(count),
        stride(n_tiles_max * kExtentBlocks),
        scores(count * stride) {
    std::mt19937 random(2);
    std::normal_distribution<float> normal;
    for (uint16_t& x : q) x = bf16_of(normal(random));
    for (uint8_t& x : tables) x = static_cast<uint8_t>(random());
    for (uint64_t i = 0; i < codes.size(); ++i) {
      codes[i] = static_cast<int8_t>(static_cast<int32_t>(random() % 255) - 127);
      sums[i / n_codes] += codes[i];
    }
  }

  uint32_t n, n_dims;
  std::vector<uint16_t> q;
  std::vector<uint8_t> tables;
  std::vector<float> scales, offsets;
  uint64_t n_codes;  // of a rotated query
  std::vector<int8_t> codes;
  std::vector<int32_t> sums;
  uint64_t stride;
  std::vector<float> scores;
};

using Pointers = std::vector<const std::byte*>;
using Scan = std::function<void(const KernelTable&, const std::byte* const* tiles, uint32_t n_tiles,
                                Queries& queries)>;

void scan_digests(const KernelTable& table, const std::byte* const* tiles, uint32_t n_tiles,
                  Queries& s) {
  table.index.digest_scores({tiles, n_tiles, s.n_dims, s.q.data(), s.n, s.scores.data(), s.stride});
}

void scan_codes(const KernelTable& table, const std::byte* const* tiles, uint32_t n_tiles,
                Queries& s) {
  table.index.pq_scan({tiles, n_tiles, s.tables.data(), s.scales.data(), s.offsets.data(), s.n,
                       s.scores.data(), s.stride});
}

void scan_rotated(const KernelTable& table, const std::byte* const* tiles, uint32_t n_tiles,
                  Queries& s) {
  table.index.rabitq_scan({tiles, n_tiles, s.n_dims, s.codes.data(), s.scales.data(), s.sums.data(),
                           s.n, s.scores.data(), s.stride});
}

void scan_clusters(const KernelTable& table, const std::byte* const* tiles, uint32_t n_tiles,
                   Queries& s) {
  table.index.cluster_scan({tiles, n_tiles, s.n_dims, s.codes.data(), s.scales.data(),
                            s.sums.data(), s.n, s.scores.data(), s.stride});
}

Pointers make_tiles(const HostMemory& memory, uint64_t bytes, uint64_t tile_bytes,
                    const Options& options) {
  Pointers tiles;
  for (uint64_t at = 0; at + tile_bytes <= bytes; at += tile_bytes)
    tiles.push_back(memory.data() + at);
  if (!options.in_order) std::shuffle(tiles.begin(), tiles.end(), std::mt19937(1));
  return tiles;
}

constexpr uint64_t kSliceBytes = uint64_t{8} << 20;  // well under a scheduler's turn

/// Median seconds of a scan over `tile_bytes * tiles_per_slice` bytes.
double time_scan(const KernelTable& table, const Scan& scan, const Pointers& tiles,
                 uint32_t tiles_per_slice, uint32_t repeats, Queries& queries) {
  std::vector<double> seconds;
  for (uint32_t repeat = 0; repeat < repeats; ++repeat)
    for (uint64_t first = 0; first + tiles_per_slice <= tiles.size(); first += tiles_per_slice) {
      const double start = cpu_seconds();
      scan(table, tiles.data() + first, tiles_per_slice, queries);
      seconds.push_back(cpu_seconds() - start);
    }
  return cli::median(seconds);
}

/// Every set's scores are the scalar set's: to the bit, or within the rounding of two sums of
/// n_dims products below 16 in magnitude.
void check_answers(const Scan& scan, const Pointers& tiles, uint32_t n_dims, double tolerance) {
  constexpr uint32_t kTiles = 17;
  Queries wanted(5, n_dims, kTiles);
  const std::vector<KernelTable> tables = index_tables();
  scan(tables[0], tiles.data(), kTiles, wanted);
  for (const KernelTable& table : tables) {
    Queries found(5, n_dims, kTiles);
    scan(table, tiles.data(), kTiles, found);
    for (uint64_t i = 0; i < found.scores.size(); ++i)
      STRATA_CHECK(found.scores[i] == wanted.scores[i] ||  // also where both are infinite
                       std::abs(double{found.scores[i]} - double{wanted.scores[i]}) <= tolerance,
                   "%s score %llu is %g, not %g", table.name, static_cast<unsigned long long>(i),
                   double{found.scores[i]}, double{wanted.scores[i]});
  }
}

/// The sum of a tile's bytes as words, in vectors that every x86-64 loads at once.
uint64_t sum_of_tile(const std::byte* tile, const std::byte* next, uint64_t tile_bytes) {
  using Words = uint64_t __attribute__((vector_size(16)));
  const auto words_at = [](const std::byte* at) {
    Words words;
    std::memcpy(&words, at, sizeof words);
    return words;
  };
  Words a = {}, b = {}, c = {}, d = {};
  for (uint64_t at = 0; at < tile_bytes; at += 64) {
    __builtin_prefetch(next + at);
    a += words_at(tile + at);
    b += words_at(tile + at + 16);
    c += words_at(tile + at + 32);
    d += words_at(tile + at + 48);
  }
  const Words sum = a + b + c + d;
  return sum[0] + sum[1];
}

/// The bytes of tiles read once, the next tile's fetched meanwhile as the scans do: what the memory
/// gives in this order, which for tiles met at random is less than its bandwidth.
double time_reading(const Pointers& tiles, uint64_t tile_bytes, uint64_t tiles_per_slice) {
  static volatile uint64_t sink = 0;
  std::vector<double> seconds;
  for (uint64_t first = 0; first + tiles_per_slice <= tiles.size(); first += tiles_per_slice) {
    const double start = cpu_seconds();
    uint64_t sum = 0;
    for (uint64_t t = first; t < first + tiles_per_slice; ++t)
      sum += sum_of_tile(tiles[t], tiles[t + 1 < tiles.size() ? t + 1 : t], tile_bytes);
    sink = sink + sum;
    seconds.push_back(cpu_seconds() - start);
  }
  return cli::median(seconds);
}

/// One kind of scan over all sets and numbers of queries. `keys` per tile.
void bench_scan(const std::string& name, const Scan& scan, const HostMemory& memory,
                uint64_t tile_bytes, uint32_t n_dims, const Options& options) {
  ThreadPool one(1);
  for (const bool is_cached : {false, true}) {
    const uint64_t bytes = is_cached ? options.cached_kibibytes << 10 : memory.size();
    const Pointers tiles = make_tiles(memory, bytes, tile_bytes, options);
    const uint64_t slice = std::min<uint64_t>(kSliceBytes / tile_bytes, tiles.size());
    for (const KernelTable& table : index_tables()) {
      if (!options.only.empty() && options.only != table.name) continue;
      for (const uint32_t n_queries : options.queries) {
        Queries queries(n_queries, n_dims, slice);
        const uint32_t repeats = is_cached ? 201 : options.repeats;
        const double read = is_cached ? 0 : cli::measure_dram_read(one, {});
        const double reading = is_cached ? 1 : time_reading(tiles, tile_bytes, slice);
        const double s =
            time_scan(table, scan, tiles, static_cast<uint32_t>(slice), repeats, queries);
        const double gbytes = static_cast<double>(slice * tile_bytes) * 1e-9 / s;
        const double gkeys = static_cast<double>(slice * kExtentPositions) * 1e-9 / s;
        std::printf("%-11s %-8s %-5s queries %2u   %6.1f GB/s   %6.2f Gkeys/s   %7.2f Gkey.q/s",
                    name.c_str(), table.name, is_cached ? "cache" : "DRAM", n_queries, gbytes,
                    gkeys, gkeys * n_queries);
        if (!is_cached)
          std::printf("   tiles read %5.1f GB/s, time / that %.2f; DRAM %5.1f GB/s, %.2f",
                      gbytes * s / reading, s / reading, read, read / gbytes);
        std::printf("\n");
      }
    }
  }
}

void bench_encode(const Options& options) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const uint32_t head_dim : {64u, 128u, 256u}) {
    std::vector<float> keys(uint64_t{head_dim} * kBlockPositions);
    std::vector<float> centroids(uint64_t{head_dim} * kPqCentroids);
    std::vector<float> half_norms(uint64_t{kPqSubspaces} * kPqCentroids, 1.0f);
    for (float& x : keys) x = normal(random);
    for (float& x : centroids) x = normal(random);
    std::vector<uint8_t> codes(uint64_t{kPqSubspaces} * kPqTileKeys);
    for (const KernelTable& table : index_tables()) {
      if (!options.only.empty() && options.only != table.name) continue;
      std::vector<double> seconds;
      for (int i = 0; i < 201; ++i) {
        const double start = cpu_seconds();
        for (int j = 0; j < 16; ++j)
          table.index.pq_encode(
              {keys.data(), centroids.data(), half_norms.data(), head_dim, codes.data()});
        seconds.push_back((cpu_seconds() - start) / 16);
      }
      const double s = cli::median(seconds);
      std::printf("encode %4u %-8s cache   %7.2f Mkeys/s   %6.1f GFLOP/s\n", head_dim, table.name,
                  kBlockPositions * 1e-6 / s,
                  static_cast<double>(cpu_attn::pq_encode_flops(head_dim)) * 1e-9 / s);
    }
  }
}

void bench_pool(const Options& options) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0.0f, 10.0f);
  for (const uint32_t n_blocks : {1024u, 4096u, 32768u}) {
    constexpr uint32_t kQueries = 4;
    std::vector<float> weights(uint64_t{kQueries} * n_blocks), pooled(n_blocks);
    for (float& x : weights) x = normal(random);
    for (const KernelTable& table : index_tables()) {
      if (!options.only.empty() && options.only != table.name) continue;
      std::vector<double> seconds;
      for (int i = 0; i < 201; ++i) {
        const double start = cpu_seconds();
        table.index.pool_shares(
            {weights.data(), n_blocks, kQueries, n_blocks, false, pooled.data()});
        seconds.push_back(cpu_seconds() - start);
      }
      const double s = cli::median(seconds);
      std::printf("pool %6u blocks x %u %-8s   %7.1f us   %6.1f GB/s\n", n_blocks, kQueries,
                  table.name, s * 1e6,
                  static_cast<double>(cpu_attn::pool_shares_bytes(kQueries, n_blocks)) * 1e-9 / s);
    }
  }
}

/// Every method on the keys and queries of a real model (`strata eval --record`).
void bench_trace(const Options& options) {
  const eval::AttentionTrace trace = eval::read_trace(options.trace);
  std::printf("%s: %u streams of %u keys, head_dim %u, %u steps of %u queries; medians\n",
              options.trace.c_str(), trace.n_streams(), trace.n_positions, trace.head_dim,
              trace.n_steps, trace.group);
  for (const KernelTable& table : index_tables()) {
    if (!options.only.empty() && options.only != table.name) continue;
    for (const eval::TraceFigures& of : eval::measure_methods(trace, table, kTraceShare)) {
      if (!of.refused.empty()) {
        std::printf("%-11s %-8s %s\n", of.method.name, table.name, of.refused.c_str());
        continue;
      }
      std::printf(
          "%-11s %-8s build %8.1f us per 2,048 keys   estimate %7.1f us, %6.2f Gkey.q/s   "
          "%6.2f bytes a key   %.4f of the weight found",
          of.method.name, table.name, of.build_s * 1e6 * 2048 / trace.n_positions,
          of.estimate_s * 1e6, uint64_t{trace.n_positions} * trace.group * 1e-9 / of.estimate_s,
          of.bytes_per_key, of.found);
      if (of.bias) std::printf("   bias %.4f nat", *of.bias);
      std::printf("\n");
    }
  }
}

void run(const Options& options) {
  const HostMemory memory = HostMemory::reserve(options.megabytes << 20);
  std::printf("tiles %s of %llu MiB (DRAM) and %llu KiB (cache); one thread's time, medians\n",
              options.in_order ? "in order" : "in random order",
              static_cast<unsigned long long>(options.megabytes),
              static_cast<unsigned long long>(options.cached_kibibytes));
  // bf16 numbers of [1/8, 2) whose bytes are below 128, as those of centres are: as codes they are
  // bytes like others.
  std::mt19937 random(1);
  for (uint16_t& x : memory.as<uint16_t>(memory.size() / 2))
    x = static_cast<uint16_t>((random() & 0x017fu) | 0x3e00u);
  for (const uint32_t n_dims : options.dims) {
    const uint64_t tile_bytes = digest_tile_bytes(n_dims);
    // Products below 2 * 8, and a bound on their sums' rounding.
    check_answers(scan_digests, make_tiles(memory, memory.size(), tile_bytes, options), n_dims,
                  2.0 * (2 * n_dims + 1) * 0x1p-24 * n_dims * 16);
    bench_scan("digest " + std::to_string(n_dims), scan_digests, memory, tile_bytes, n_dims,
               options);
  }
  check_answers(scan_codes, make_tiles(memory, memory.size(), kPqTileBytes, options), 2, 0);
  bench_scan("pq", scan_codes, memory, kPqTileBytes, 2, options);
  for (const uint32_t head_dim : {64u, 128u}) {
    const uint64_t tile_bytes = rabitq_tile_bytes(head_dim);
    check_answers(scan_rotated, make_tiles(memory, memory.size(), tile_bytes, options), head_dim,
                  0);
    bench_scan("rabitq " + std::to_string(head_dim), scan_rotated, memory, tile_bytes, head_dim,
               options);
  }
  for (const uint32_t head_dim : {64u, 128u}) {
    const uint64_t tile_bytes = cluster_tile_bytes(head_dim);
    check_answers(scan_clusters, make_tiles(memory, memory.size(), tile_bytes, options), head_dim,
                  0);
    bench_scan("cluster " + std::to_string(head_dim), scan_clusters, memory, tile_bytes, head_dim,
               options);
  }
  bench_encode(options);
  bench_pool(options);
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  strata::Options options;
  CLI::App app("Times the kernels of retrieval on one thread, beside reading the same bytes");
  app.add_option("--megabytes", options.megabytes, "tiles in DRAM")->check(CLI::Range(16u, 8192u));
  app.add_option("--cached-kibibytes", options.cached_kibibytes, "tiles in cache")
      ->check(CLI::Range(128u, 4096u));
  app.add_option("--repeats", options.repeats, "passes over the tiles in DRAM")
      ->check(CLI::Range(1u, 100u));
  app.add_option("--dims", options.dims, "dimensions of digests")->check(CLI::Range(2u, 1024u));
  app.add_option("--queries", options.queries, "queries that share a scan")
      ->check(CLI::Range(1u, 96u));
  app.add_option("--only", options.only, "only this set: scalar, avx2, avx512, avx512+");
  app.add_option("--trace", options.trace,
                 "instead, every method on the keys and queries that `strata eval --record` wrote");
  app.add_flag("--in-order", options.in_order, "meet the tiles in the order of their addresses");
  CLI11_PARSE(app, argc, argv);
  try {
    options.trace.empty() ? strata::run(options) : strata::bench_trace(options);
  } catch (const strata::Error& error) {
    std::fprintf(stderr, "bench_index: %s [%s]\n", error.what(), error.where().c_str());
    return 1;
  }
  return 0;
}
