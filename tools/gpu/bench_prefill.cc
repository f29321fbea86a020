// Attention of a chunk: shapes of an 8B model, of a small one and of one with wide heads, as a
// share of what the tensor cores do at the highest clock. Two queries of each shape are judged by
// double precision before it is timed.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <stdexcept>

#include "base/checked_math.h"
#include "base/half.h"
#include "gpu_attn/tensor_core_work.h"
#include "tools/gpu/bench_memory.h"

namespace strata::gpu_bench {
namespace {

constexpr uint64_t kCacheBytes = uint64_t{192} << 20;  // what the sets of blocks exceed

struct Shape {
  const char* model;
  uint32_t n_kv_heads;
  uint32_t group;
  uint32_t head_dim;
  KvCodec codec;
  uint32_t n_rows;
  uint32_t n_positions;
  bool has_splits = true;

  uint32_t n_blocks() const { return static_cast<uint32_t>(div_up(n_positions, kBlockPositions)); }
  KvLayout layout() const { return KvLayout::make(codec, codec, head_dim); }
  uint64_t n_queries() const { return uint64_t{n_rows} * group; }  // of a KV head
  std::string name() const {
    return std::string("prefill ") + model + " " + kv_codec_name(codec) + " " +
           std::to_string(n_rows) + " rows at " + std::to_string(n_positions);
  }
};

/// Rows of numbers that make scores of a spread of about one with what random_bytes() draws.
std::vector<float> draw_queries(const Shape& shape) {
  const double k_size = shape.codec == KvCodec::kF16 ? 0.5 : 35.0;  // root mean square
  std::mt19937 random(5);
  std::normal_distribution<float> normal(
      0, static_cast<float>(1 / (k_size * std::sqrt(static_cast<double>(shape.head_dim)))));
  std::vector<float> q(shape.n_kv_heads * shape.n_queries() * shape.head_dim);
  for (float& value : q) value = normal(random);
  return q;
}

/// A number of K or V: its scale times what is stored at `i`.
double number(KvCodec codec, const std::byte* part, const std::byte* scales, uint64_t i,
              uint32_t dim, uint32_t row) {
  uint16_t half;
  if (codec == KvCodec::kF16) {
    std::memcpy(&half, part + i * 2, 2);
    return double{f16_to_f32(half)};
  }
  std::memcpy(&half, scales + (dim / 32 * kBlockPositions + row) * 2, 2);
  return static_cast<int8_t>(part[i]) * double{f16_to_f32(half)};
}

/// The attention of the last query of row `row` and KV head 0 over `blocks`.
std::vector<double> attend_exactly(const Shape& shape, std::span<const float> q,
                                   const std::vector<std::byte>& blocks, uint32_t row) {
  const KvLayout layout = shape.layout();
  const uint32_t d = shape.head_dim;
  const uint32_t n = shape.n_positions - shape.n_rows + row + 1;
  std::vector<double> scores(n), out(d);
  for (uint32_t p = 0; p < n; ++p) {
    const std::byte* block = blocks.data() + uint64_t{p / 32} * layout.block_bytes;
    for (uint32_t i = 0; i < d; ++i)
      scores[p] += double{q[i]} * number(layout.k_codec, block, block + layout.k_scales_offset,
                                         uint64_t{i} * 32 + p % 32, i, p % 32);
  }
  const double top = *std::ranges::max_element(scores);
  double sum = 0;
  for (uint32_t p = 0; p < n; ++p) {
    const std::byte* block = blocks.data() + uint64_t{p / 32} * layout.block_bytes;
    const double weight = std::exp(scores[p] - top);
    sum += weight;
    for (uint32_t i = 0; i < d; ++i)
      out[i] +=
          weight * number(layout.v_codec, block + layout.v_offset, block + layout.v_scales_offset,
                          uint64_t{p % 32} * d + i, i, p % 32);
  }
  for (double& value : out) value /= sum;
  return out;
}

/// Errors of f16 are some 1e-3 of a result's size here; a wrong mask or block is far more.
void check_answer(GpuBench& bench, const Shape& shape, const DevicePrefillArgs& args,
                  const std::vector<float>& q, const std::byte* head0) {
  bench.check(bench.table().kernels.prefill(bench.stream(), args));
  const auto blocks =
      download(bench, head0, uint64_t{shape.n_blocks()} * shape.layout().block_bytes);
  const uint64_t width = uint64_t{shape.n_kv_heads} * shape.group * shape.head_dim;
  for (const uint32_t row : {0u, shape.n_rows - 1}) {
    const uint64_t query = uint64_t{row} * shape.group + shape.group - 1;
    const auto wanted = attend_exactly(
        shape, std::span(q).subspan(query * shape.head_dim, shape.head_dim), blocks, row);
    const auto got = download(bench, args.out + row * width + (shape.group - 1) * shape.head_dim,
                              shape.head_dim);
    double largest = 0;
    for (const double value : wanted) largest = std::max(largest, std::abs(value));
    for (uint32_t i = 0; i < shape.head_dim; ++i)
      if (!(std::abs(double{got[i]} - wanted[i]) <= 0.02 * largest))
        throw std::runtime_error(shape.name() + ": row " + std::to_string(row) + " is wrong");
  }
}

void bench_shape(GpuBench& bench, const Shape& shape) {
  const KvLayout layout = shape.layout();
  const uint64_t set_bytes = uint64_t{shape.n_kv_heads} * shape.n_blocks() * layout.block_bytes;
  const uint64_t n_sets = bench.is_small() ? 1 : kCacheBytes / set_bytes + 1;
  const auto* memory = static_cast<const std::byte*>(bench.random_bytes(set_bytes * n_sets, 3));
  std::vector<const std::byte*> table;
  for (uint64_t i = 0; i < n_sets * shape.n_kv_heads * shape.n_blocks(); ++i)
    table.push_back(memory + i * layout.block_bytes);
  const std::byte* const* tables = upload(bench, table);
  std::vector<uint32_t> positions;
  for (uint32_t row = 0; row < shape.n_rows; ++row)
    positions.push_back(shape.n_positions - shape.n_rows + row);
  const std::vector<float> q = draw_queries(shape);

  const uint32_t n_splits =
      !shape.has_splits
          ? 1
          : device_prefill_splits(shape.n_rows, shape.n_kv_heads, shape.group, shape.head_dim,
                                  shape.n_blocks(), bench.facts().n_multiprocessors);
  DevicePrefillArgs args{
      .q = upload(bench, q),
      .positions = upload(bench, positions),
      .blocks = tables,
      .block_stride = shape.n_blocks(),
      .first_block = 0,
      .n_blocks = shape.n_blocks(),
      .layout = layout,
      .n_rows = shape.n_rows,
      .n_kv_heads = shape.n_kv_heads,
      .group = shape.group,
      .window = 0,
      .out = static_cast<float*>(bench.make(q.size() * sizeof(float))),
      .quant = {},
      .n_splits = n_splits,
      .scratch = static_cast<std::byte*>(bench.make(std::max<uint64_t>(
          256, device_prefill_scratch_bytes(n_splits, shape.n_rows, shape.n_kv_heads, shape.group,
                                            shape.head_dim))))};
  check_answer(bench, shape, args, q, memory);
  BenchRow row = bench.time(shape.name(), [&](uint32_t i) {
    args.blocks = tables + i % n_sets * shape.n_kv_heads * shape.n_blocks();
    bench.check(bench.table().kernels.prefill(bench.stream(), args));
  });
  row.bytes = gpu_attn::prefill_bytes(args);
  row.flop = gpu_attn::prefill_flop(args, positions[0]);
  row.ceiling = "tensor";
  row.note = std::to_string(n_splits) + (n_splits == 1 ? " split" : " splits");
  bench.add(row);
}

}  // namespace

void bench_prefill(GpuBench& bench) {
  constexpr KvCodec kF16 = KvCodec::kF16;
  constexpr KvCodec kQ8 = KvCodec::kQ8_0;
  bench_shape(bench, {"small", 3, 3, 64, kF16, 64, 300});
  if (bench.is_small()) return;
  bench_shape(bench, {"8B", 8, 4, 128, kF16, 512, 2048});
  bench_shape(bench, {"8B", 8, 4, 128, kF16, 512, 32768});
  bench_shape(bench, {"8B", 8, 4, 128, kF16, 512, 32768, false});
  bench_shape(bench, {"8B", 8, 4, 128, kF16, 2048, 32768});
  bench_shape(bench, {"8B", 8, 4, 128, kQ8, 512, 32768});
  bench_shape(bench, {"SmolLM2", 3, 3, 64, kF16, 512, 8192});
  bench_shape(bench, {"80 wide", 8, 4, 80, kF16, 512, 8192});
  bench_shape(bench, {"256 wide", 4, 2, 256, kF16, 512, 8192});
}

}  // namespace strata::gpu_bench
