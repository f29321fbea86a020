// Scans of an index's codes: a layer's tiles at several lengths of context, over sets of them that
// no cache holds. Answers are compared with the CPU's scan.
#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>

#include "base/host_memory.h"
#include "cpu_attn/index.h"
#include "gpu_attn/scan_bytes.h"
#include "tools/gpu/bench_memory.h"
#include "tools/gpu/gpu_bench.h"

namespace strata::gpu_bench {
namespace {

constexpr uint64_t kCacheBytes = uint64_t{192} << 20;  // what the sets of a bench exceed
constexpr uint32_t kDrawnTiles = 8;                    // that stand in memory again and again
constexpr uint32_t kKvHeads = 8;

struct ScanShape {
  uint32_t head_dim;
  uint32_t n_queries;  // of a KV head
  uint32_t n_positions;
};

std::vector<float> normal_values(uint64_t n, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

IndexKernels cpu_kernels() {
  KernelTable table;
  cpu_attn::fill_index_scalar(table);
  return table.index;
}

/// kDrawnTiles tiles of random keys, one after the other.
HostMemory drawn_tiles(uint32_t head_dim, std::mt19937& random) {
  const uint64_t n_values = uint64_t{head_dim} * kBlockPositions;
  HostMemory tiles = HostMemory::reserve(kDrawnTiles * rabitq_tile_bytes(head_dim));
  const HostMemory keys = HostMemory::reserve(n_values * sizeof(float));
  for (uint32_t i = 0; i < kDrawnTiles * kExtentBlocks; ++i) {
    const auto drawn = normal_values(n_values, random);
    std::copy(drawn.begin(), drawn.end(), keys.as<float>(n_values).begin());
    cpu_kernels().rabitq_encode({keys.as<float>(n_values).data(), head_dim, i % kExtentBlocks,
                                 tiles.data() + i / kExtentBlocks * rabitq_tile_bytes(head_dim)});
  }
  return tiles;
}

/// n tiles of the device, drawn ones again and again.
const std::byte* place_tiles(GpuBench& bench, const HostMemory& drawn, uint64_t tile_bytes,
                             uint64_t n) {
  const uint64_t bytes = n * tile_bytes;
  auto* memory = static_cast<std::byte*>(bench.make(bytes));
  uint64_t filled = std::min(bytes, kDrawnTiles * tile_bytes);
  bench.check(bench.table().copy(bench.stream(), memory, drawn.data(), filled));
  for (; filled < bytes; filled *= 2)
    bench.check(bench.table().copy(bench.stream(), memory + filled, memory,
                                   std::min(filled, bytes - filled)));
  bench.check(bench.table().wait_stream(bench.stream()));
  return memory;
}

/// What the CPU gives for the queries of a KV head, [n_queries][kDrawnTiles * kExtentBlocks].
std::vector<float> scanned_by_cpu(const ScanShape& shape, const HostMemory& drawn, const float* q) {
  const uint32_t n_codes = rabitq_groups(shape.head_dim) * kRabitqGroup;
  const HostMemory columns =
      HostMemory::reserve(uint64_t{shape.head_dim} * kBlockPositions * sizeof(float));
  std::vector<int8_t> codes(uint64_t{shape.n_queries} * n_codes);
  std::vector<float> scales(shape.n_queries);
  std::vector<int32_t> sums(shape.n_queries);
  cpu_kernels().rabitq_query({q, shape.n_queries, shape.head_dim,
                              reinterpret_cast<float*>(columns.data()), codes.data(), scales.data(),
                              sums.data()});
  std::vector<const std::byte*> tiles;
  for (uint32_t i = 0; i < kDrawnTiles; ++i)
    tiles.push_back(drawn.data() + i * rabitq_tile_bytes(shape.head_dim));
  std::vector<float> scores(uint64_t{shape.n_queries} * kDrawnTiles * kExtentBlocks);
  cpu_kernels().rabitq_scan({tiles.data(), kDrawnTiles, shape.head_dim, codes.data(), scales.data(),
                             sums.data(), shape.n_queries, scores.data(),
                             uint64_t{kDrawnTiles} * kExtentBlocks});
  return scores;
}

/// How far the device's scores of a query may be from the CPU's: ln(sum exp) by the bits of floats,
/// and what f32 rounds. A part of a score is at most a product of lengths: drawn keys are shorter
/// than 2 sqrt(head_dim), and codes and rounded queries at most twice as long as what they stand
/// for. Of such parts at most 16 round on each side, and 128 times a sum of weights.
double cpu_tolerance(const float* q, uint32_t head_dim) {
  double square = 0;
  for (uint32_t d = 0; d < head_dim; ++d) square += double{q[d]} * q[d];
  const double size = 8 * std::sqrt(square * head_dim);
  return cpu_attn::kWeightTolerance + 2 * (16 * size + 128) * 0x1p-24;
}

/// The last KV head of the first set.
void check_scan(GpuBench& bench, const DeviceScanArgs& args, const ScanShape& shape,
                const HostMemory& drawn, const std::vector<float>& q, const std::string& name) {
  bench.check(bench.table().kernels.scan_codes(bench.stream(), args));
  const uint64_t first_query = uint64_t{args.n_kv_heads - 1} * args.n_queries;
  const uint64_t first_tile = uint64_t{args.n_kv_heads - 1} * args.n_tiles;
  const auto wanted = scanned_by_cpu(shape, drawn, q.data() + first_query * args.head_dim);
  const auto found = download(bench, args.block_scores + first_query * args.score_stride,
                              args.n_queries * args.score_stride);
  for (uint64_t query = 0; query < args.n_queries; ++query) {
    const double tolerance =
        cpu_tolerance(q.data() + (first_query + query) * args.head_dim, args.head_dim);
    for (uint64_t block = 0; block < args.score_stride; ++block) {
      const uint64_t drawn_tile = (first_tile + block / kExtentBlocks) % kDrawnTiles;
      const float of_cpu = wanted[query * kDrawnTiles * kExtentBlocks + drawn_tile * kExtentBlocks +
                                  block % kExtentBlocks];
      if (!(std::abs(found[query * args.score_stride + block] - of_cpu) <= tolerance))
        throw std::runtime_error(name + ": the score of block " + std::to_string(block) +
                                 " is wrong");
    }
  }
}

void bench_shape(GpuBench& bench, const ScanShape& shape) {
  std::mt19937 random(shape.head_dim + shape.n_queries);
  const uint64_t tile_bytes = rabitq_tile_bytes(shape.head_dim);
  const uint32_t n_tiles = shape.n_positions / kExtentPositions;
  const uint64_t set_tiles = uint64_t{n_tiles} * kKvHeads;
  const uint64_t sets = bench.is_small() ? 1 : kCacheBytes / (set_tiles * tile_bytes) + 1;
  const HostMemory drawn = drawn_tiles(shape.head_dim, random);
  const std::byte* tiles = place_tiles(bench, drawn, tile_bytes, sets * set_tiles);
  std::vector<const std::byte*> list(sets * set_tiles);
  for (uint64_t i = 0; i < list.size(); ++i) list[i] = tiles + i * tile_bytes;
  const std::byte* const* lists = upload(bench, list);
  const uint64_t n_queries = uint64_t{kKvHeads} * shape.n_queries;
  const uint64_t score_stride = uint64_t{n_tiles} * kExtentBlocks;
  auto q = normal_values(n_queries * shape.head_dim, random);
  for (float& x : q) x /= std::sqrt(static_cast<float>(shape.head_dim));
  DeviceScanArgs args{
      .q = upload(bench, q),
      .tiles = lists,
      .tile_stride = n_tiles,
      .n_tiles = n_tiles,
      .head_dim = shape.head_dim,
      .n_kv_heads = kKvHeads,
      .n_queries = shape.n_queries,
      .block_scores = static_cast<float*>(bench.make(n_queries * score_stride * sizeof(float))),
      .score_stride = score_stride};
  const std::string name = "scan " + std::to_string(shape.n_positions) + " d" +
                           std::to_string(shape.head_dim) + " " + std::to_string(kKvHeads) + "x" +
                           std::to_string(shape.n_queries);
  check_scan(bench, args, shape, drawn, q, name);
  BenchRow row = bench.time(name, [&](uint32_t i) {
    args.tiles = lists + i % sets * set_tiles;
    bench.check(bench.table().kernels.scan_codes(bench.stream(), args));
  });
  row.bytes = gpu_attn::scan_codes_bytes(args);
  row.flop = gpu_attn::scan_codes_ops(args);
  row.ceiling = "copy";
  row.note = "a layer; operations on bytes";
  bench.add(std::move(row));
}

}  // namespace

void bench_scan(GpuBench& bench) {
  if (bench.is_small()) return bench_shape(bench, {128, 4, 3 * kExtentPositions});
  for (const uint32_t n_positions : {8192u, 32768u, 131072u, 1048576u})
    bench_shape(bench, {128, 4, n_positions});
  for (const uint32_t n_queries : {1u, 8u, 16u, 32u}) bench_shape(bench, {128, n_queries, 131072});
  for (const uint32_t head_dim : {64u, 80u, 256u}) bench_shape(bench, {head_dim, 4, 131072});
}

}  // namespace strata::gpu_bench
