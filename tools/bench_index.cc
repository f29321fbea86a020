// tools/bench_index.cc - speed of the kernels of retrieval on one thread, per instruction set:
// tiles from DRAM and from cache, beside plain reading of the same tiles and beside DRAM's
// bandwidth. The answers of every set are compared with the scalar set's before anything is timed.
// Why: a token reads the index of its whole context, so the two scans are wanted at the speed of
// memory: at most 1.5 times the time that reading takes. With --trace: every method as a whole on
// keys of a real model.
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "base/half.h"
#include "base/host_memory.h"
#include "cpu_attn/index.h"
#include "index/choose.h"
#include "index/method.h"
#include "tools/cli/dram_read.h"
#include "tools/eval/attention_trace.h"

namespace strata {
namespace {

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

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
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
  return median(seconds);
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
  return median(seconds);
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
      const double s = median(seconds);
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
      const double s = median(seconds);
      std::printf("pool %6u blocks x %u %-8s   %7.1f us   %6.1f GB/s\n", n_blocks, kQueries,
                  table.name, s * 1e6,
                  static_cast<double>(cpu_attn::pool_shares_bytes(kQueries, n_blocks)) * 1e-9 / s);
    }
  }
}

/// A method's index of a model's own keys, of all streams of a trace.
class TraceIndex {
 public:
  TraceIndex(const eval::AttentionTrace& trace, index::Method method, const KernelTable& table)
      : trace_(trace),
        source_(method,
                {.layout = trace.layout(),
                 .n_streams = trace.n_streams(),
                 .n_blocks = trace.n_blocks()},
                table),
        selector_(source_.make()),
        scratch_(HostMemory::reserve(selector_->scratch_floats(trace.group) * sizeof(float) + 64)),
        stride_(round_up(trace.n_blocks(), kExtentBlocks)),
        weights_(trace.group * stride_) {
    selector_->open_blocks(trace.n_blocks());
  }

  /// Seconds of a stream.
  double observe(uint32_t stream) {
    const double start = cpu_seconds();
    for (uint32_t block = 0; block < trace_.n_blocks(); ++block)
      selector_->observe(stream, block, trace_.block(stream, block));
    return cpu_seconds() - start;
  }
  /// Seconds in which the blocks of a stream are scored for a step's queries; leaves weights().
  double estimate(uint32_t stream, uint32_t step) {
    const std::vector<float> q = trace_.query(stream, step);
    const double start = cpu_seconds();
    selector_->estimate({.stream = stream,
                         .q = q.data(),
                         .n_queries = trace_.group,
                         .end_block = trace_.n_blocks(),
                         .scratch = reinterpret_cast<float*>(scratch_.data()),
                         .log_weights = weights_.data(),
                         .weight_stride = stride_});
    return cpu_seconds() - start;
  }
  std::span<const float> weights() const { return weights_; }  // [group, stride()], logarithms
  uint64_t stride() const { return stride_; }
  double bytes_per_key() const {
    return static_cast<double>(selector_->estimate_bytes(trace_.n_blocks())) / trace_.n_positions;
  }

 private:
  const eval::AttentionTrace& trace_;
  index::SelectorSource source_;
  std::unique_ptr<index::Selector> selector_;
  HostMemory scratch_;
  uint64_t stride_;
  std::vector<float> weights_;
};

/// The share of the exact weight, of blocks that are chosen at all, that a choice by estimates
/// within a quarter of the positions holds; mean over the step's queries.
double weight_found(const TraceIndex& estimated, const TraceIndex& exact, uint32_t n_queries,
                    uint32_t n_blocks, index::Chooser& chooser) {
  const index::Rule& rule = chooser.rule();
  const auto& choice = chooser.choose({.log_weights = estimated.weights(),
                                       .weight_stride = estimated.stride(),
                                       .n_queries = n_queries,
                                       .n_blocks = n_blocks,
                                       .n_positions = n_blocks * kBlockPositions});
  double found = 0;
  for (uint32_t query = 0; query < n_queries; ++query) {
    const float* weights = exact.weights().data() + query * exact.stride();
    const auto is_candidate = [&](uint32_t block) {
      return block >= rule.n_sink_blocks && block + rule.n_window_blocks < n_blocks;
    };
    const double top = *std::max_element(weights, weights + n_blocks);
    const auto weight = [&](uint32_t block) {
      return is_candidate(block) ? std::exp(weights[block] - top) : 0;
    };
    double all = 0, chosen = 0;
    for (uint32_t block = 0; block < n_blocks; ++block) all += weight(block);
    for (const uint32_t block : choice.blocks) chosen += weight(block);
    found += (all > 0 ? chosen / all : 1) / n_queries;
  }
  return found;
}

/// Every method on the keys and queries of a real model (`strata eval --record`).
void bench_trace(const Options& options) {
  const eval::AttentionTrace trace = eval::read_trace(options.trace);
  std::printf("%s: %u streams of %u keys, head_dim %u, %u steps of %u queries; medians\n",
              options.trace.c_str(), trace.n_streams(), trace.n_positions, trace.head_dim,
              trace.n_steps, trace.group);
  for (const KernelTable& table : index_tables()) {
    if (!options.only.empty() && options.only != table.name) continue;
    index::Chooser chooser(table, {.budget = {index::Budget::Kind::kShare, 0.25}});
    TraceIndex exact(trace, index::Method::kOracle, table);
    for (uint32_t stream = 0; stream < trace.n_streams(); ++stream) exact.observe(stream);
    for (const auto& method : index::method_names()) {
      try {
        index::check_supported(method.method, trace.layout());
      } catch (const Error& error) {
        std::printf("%-11s %-8s %s\n", method.name, table.name, error.what());
        continue;
      }
      TraceIndex of(trace, method.method, table);
      std::vector<double> building, scoring;
      double found = 0;
      for (uint32_t stream = 0; stream < trace.n_streams(); ++stream) {
        building.push_back(of.observe(stream));
        for (uint32_t step = 0; step < trace.n_steps; ++step) {
          scoring.push_back(of.estimate(stream, step));
          exact.estimate(stream, step);
          const uint32_t pos = trace.n_positions - trace.n_steps + step;
          found += weight_found(of, exact, trace.group, pos / kBlockPositions, chooser);
        }
      }
      std::printf(
          "%-11s %-8s build %8.1f us per 2,048 keys   estimate %7.1f us, %6.2f Gkey.q/s   "
          "%6.2f bytes a key   %.4f of the weight found\n",
          method.name, table.name, median(building) * 1e6 * 2048 / trace.n_positions,
          median(scoring) * 1e6, uint64_t{trace.n_positions} * trace.group * 1e-9 / median(scoring),
          of.bytes_per_key(), found / static_cast<double>(scoring.size()));
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
