// Matrices times many rows, decoding of the packed weights included, as a share of what the tensor
// cores do at the highest clock; and with rows so few that it is decoding alone that counts, as a
// share of a copy. Outputs of each shape are judged by double precision before it is timed.
#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>

#include "base/checked_math.h"
#include "cpu_attn/pack.h"
#include "gpu_attn/tensor_core_work.h"
#include "tools/gpu/bench_memory.h"

namespace strata::gpu_bench {
namespace {

constexpr uint64_t kCacheBytes = uint64_t{192} << 20;  // what the sets of weights exceed

struct Shape {
  TensorType type;
  uint32_t n_rows;
  uint32_t n_in;
  uint32_t n_out;

  std::string name() const {
    return "linear " + std::string(tensor_type_info(type).name) + " " + std::to_string(n_rows) +
           "x" + std::to_string(n_in) + "x" + std::to_string(n_out);
  }
};

/// Some outputs of the first and the last row, over rows of weights from both ends.
void check_answer(GpuBench& bench, const Shape& shape, const DeviceLinearArgs& args,
                  const std::vector<float>& x) {
  bench.check(bench.table().kernels.linear(bench.stream(), args));
  PackedMatrix matrix = args.w[0];
  const auto packed = download(bench, matrix.bytes, matrix.total_bytes());
  matrix.bytes = packed.data();
  const auto out = download(bench, args.out[0], uint64_t{shape.n_rows} * shape.n_out);
  std::vector<float> w(shape.n_in);
  for (uint32_t i = 0; i < 40; ++i) {
    const uint32_t column = i % 2 == 0 ? i : shape.n_out - 1 - i;
    cpu_attn::unpack_row(matrix, column, w);
    for (const uint32_t row : {0u, shape.n_rows - 1}) {
      double sum = 0, size = 0;
      for (uint32_t k = 0; k < shape.n_in; ++k) {
        const double part = double{x[uint64_t{row} * shape.n_in + k]} * double{w[k]};
        sum += part;
        size += std::abs(part);
      }
      if (!(std::abs(double{out[uint64_t{row} * shape.n_out + column]} - sum) <= 0x1p-9 * size))
        throw std::runtime_error(shape.name() + ": output " + std::to_string(column) + " is wrong");
    }
  }
}

void bench_shape(GpuBench& bench, const Shape& shape) {
  PackedMatrix matrix{.bytes = nullptr,
                      .type = shape.type,
                      .n_out = shape.n_out,
                      .n_in = shape.n_in,
                      .panel_bytes = cpu_attn::panel_bytes(shape.type, shape.n_in)};
  const uint64_t set_bytes = matrix.total_bytes();
  const uint64_t n_sets = bench.is_small() ? 1 : kCacheBytes / set_bytes + 1;
  // Any bytes are codes; halves below 2 are headers.
  const auto* weights = static_cast<const std::byte*>(bench.random_bytes(set_bytes * n_sets, 11));
  std::mt19937 random(12);
  std::normal_distribution<float> normal;
  std::vector<float> x(uint64_t{shape.n_rows} * shape.n_in);
  for (float& value : x) value = normal(random);
  DeviceLinearArgs args{};
  args.w[0] = matrix;
  args.w[0].bytes = weights;
  args.out[0] = static_cast<float*>(bench.make(uint64_t{shape.n_rows} * shape.n_out * 4));
  args.n_matrices = 1;
  args.x = upload(bench, x);
  args.n_rows = shape.n_rows;
  args.scratch = static_cast<std::byte*>(
      bench.make(device_linear_scratch_bytes(shape.n_rows, shape.n_in, shape.n_out)));
  check_answer(bench, shape, args, x);
  BenchRow row = bench.time(shape.name(), [&](uint32_t i) {
    args.w[0].bytes = weights + i % n_sets * set_bytes;
    bench.check(bench.table().kernels.linear(bench.stream(), args));
  });
  const bool is_decoding = shape.n_rows <= 16;
  row.bytes = gpu_attn::wide_linear_bytes(args);
  row.flop = gpu_attn::wide_linear_flop(args);
  row.ceiling = is_decoding ? "copy" : "tensor";
  if (is_decoding) row.note = "nearly all of it decoding";
  bench.add(row);
}

}  // namespace

void bench_wide_linear(GpuBench& bench) {
  bench_shape(bench, {TensorType::kQ4_K, 64, 256, 200});
  if (bench.is_small()) return;
  for (const uint32_t n_rows : {16u, 64u, 512u, 2048u})
    bench_shape(bench, {TensorType::kQ4_K, n_rows, 4096, 4096});
  bench_shape(bench, {TensorType::kQ4_K, 512, 4096, 14336});
  bench_shape(bench, {TensorType::kQ4_K, 512, 14336, 4096});
  bench_shape(bench, {TensorType::kQ6_K, 512, 4096, 4096});
  bench_shape(bench, {TensorType::kF16, 512, 4096, 4096});
  bench_shape(bench, {TensorType::kQ8_0, 512, 576, 1536});
}

}  // namespace strata::gpu_bench
