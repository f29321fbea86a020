// Row-wise operations: at one row a launch's length, whose inputs the second cache holds as in a
// step; at 512 rows the share of a copy, over inputs that no cache holds.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "gpu_attn/row_bytes.h"
#include "tools/gpu/gpu_bench.h"

namespace strata::gpu_bench {
namespace {

constexpr uint64_t kCacheBytes = uint64_t{192} << 20;  // what the sets of a bench exceed
constexpr float kEps = 1e-5f;

/// Sets of inputs to go round in.
uint32_t n_sets(uint32_t n_rows, uint64_t set_bytes) {
  return n_rows == 1 ? 1 : static_cast<uint32_t>(kCacheBytes / set_bytes + 1);
}

template <class T>
T* make(GpuBench& bench, uint64_t n) {
  return static_cast<T*>(bench.make(n * sizeof(T)));
}

float* random_floats(GpuBench& bench, uint64_t n, uint32_t seed) {
  return static_cast<float*>(bench.random_bytes(n * sizeof(float), seed));
}

template <class T>
std::vector<T> download(GpuBench& bench, const T* from, uint64_t n) {
  std::vector<T> values(n);
  bench.check(bench.table().copy(bench.stream(), values.data(), from, n * sizeof(T)));
  bench.check(bench.table().wait_stream(bench.stream()));
  return values;
}

QuantRows make_quant(GpuBench& bench, uint64_t n) {
  return {make<int8_t>(bench, n), make<float>(bench, n / kActGroup),
          make<int32_t>(bench, n / kActHalfGroup)};
}

void expect_near(const std::vector<float>& got, const std::vector<double>& wanted,
                 const std::string& what) {
  double largest = 0;
  for (const double value : wanted) largest = std::max(largest, std::abs(value));
  for (uint64_t i = 0; i < got.size(); ++i)
    if (!(std::abs(double{got[i]} - wanted[i]) <= 1e-5 * (std::abs(wanted[i]) + 1e-3 * largest)))
      throw std::runtime_error(what + ": value " + std::to_string(i) + " is wrong");
}

void add_row(GpuBench& bench, const std::string& name, uint32_t n_rows, uint64_t bytes,
             const std::function<void(uint32_t)>& run) {
  BenchRow row = bench.time(name, run);
  row.bytes = bytes;
  row.ceiling = "copy";
  row.share = static_cast<double>(bytes) / (row.us * 1e-6) / bench.copy_bytes_per_s();
  if (n_rows == 1) row.note = "inputs in the cache";
  bench.add(row);
}

std::string shape_name(const char* what, uint32_t n_rows, uint32_t n) {
  return std::string(what) + " " + std::to_string(n_rows) + "x" + std::to_string(n);
}

void bench_norm(GpuBench& bench, uint32_t n_rows, uint32_t n) {
  const uint64_t values = uint64_t{n_rows} * n;
  const uint32_t sets = n_sets(n_rows, values * 12);
  float* residual = random_floats(bench, values * sets, 1);
  float* projected = random_floats(bench, values * sets, 2);
  DeviceNormArgs args{.residual = residual,
                      .projected = projected,
                      .bias = nullptr,
                      .post_norm = nullptr,
                      .weight = random_floats(bench, n, 3),
                      .normed = make<float>(bench, values),
                      .quant = make_quant(bench, values),
                      .n_rows = n_rows,
                      .n = n,
                      .eps = kEps};
  const std::string name = shape_name("norm", n_rows, n);
  const uint64_t last = values - n;  // its last row is judged
  const auto before = download(bench, residual + last, n);
  const auto added = download(bench, projected + last, n);
  const auto weight = download(bench, args.weight, n);
  bench.check(bench.table().kernels.norm(bench.stream(), args));
  std::vector<double> wanted(n);
  double squares = 0;
  for (uint32_t i = 0; i < n; ++i) {
    wanted[i] = double{before[i]} + double{added[i]};
    squares += wanted[i] * wanted[i];
  }
  const double factor = 1 / std::sqrt(squares / n + double{kEps});
  for (uint32_t i = 0; i < n; ++i) wanted[i] *= factor * double{weight[i]};
  expect_near(download(bench, args.normed + last, n), wanted, name);
  add_row(bench, name, n_rows, gpu_attn::norm_bytes(args), [&](uint32_t i) {
    args.residual = residual + i % sets * values;
    args.projected = projected + i % sets * values;
    bench.check(bench.table().kernels.norm(bench.stream(), args));
  });
}

void bench_activate(GpuBench& bench, uint32_t n_rows, uint32_t n) {
  const uint64_t values = uint64_t{n_rows} * n;
  const uint32_t sets = n_sets(n_rows, values * 8);
  const float* gate = random_floats(bench, values * sets, 4);
  const float* up = random_floats(bench, values * sets, 5);
  DeviceActivateArgs args{.gate = gate,
                          .up = up,
                          .out = make<float>(bench, values),
                          .quant = make_quant(bench, values),
                          .n_rows = n_rows,
                          .n = n,
                          .kind = DeviceActivation::kSiluMul};
  const std::string name = shape_name("activate", n_rows, n);
  const auto gates = download(bench, gate + values - n, n);
  const auto ups = download(bench, up + values - n, n);
  bench.check(bench.table().kernels.activate(bench.stream(), args));
  std::vector<double> wanted(n);
  for (uint32_t i = 0; i < n; ++i)
    wanted[i] = gates[i] / (1 + std::exp(-double{gates[i]})) * double{ups[i]};
  expect_near(download(bench, args.out + values - n, n), wanted, name);
  add_row(bench, name, n_rows, gpu_attn::activate_bytes(args), [&](uint32_t i) {
    args.gate = gate + i % sets * values;
    args.up = up + i % sets * values;
    bench.check(bench.table().kernels.activate(bench.stream(), args));
  });
}

void bench_quantize(GpuBench& bench, uint32_t n_rows, uint32_t n) {
  const uint64_t values = uint64_t{n_rows} * n;
  const uint32_t sets = n_sets(n_rows, values * 4);
  const float* x = random_floats(bench, values * sets, 6);
  DeviceQuantizeArgs args{.x = x, .out = make_quant(bench, values), .n_rows = n_rows, .n = n};
  const std::string name = shape_name("quantize", n_rows, n);
  bench.check(bench.table().kernels.quantize(bench.stream(), args));
  const auto row = download(bench, x + values - n, n);
  const auto codes = download(bench, args.out.q + values - n, n);
  const auto scales = download(bench, args.out.scales + (values - n) / kActGroup, n / kActGroup);
  for (uint32_t i = 0; i < n; ++i)
    if (!(std::abs(row[i] - scales[i / kActGroup] * codes[i]) <= 0.501f * scales[i / kActGroup]))
      throw std::runtime_error(name + ": code " + std::to_string(i) + " is wrong");
  add_row(bench, name, n_rows, gpu_attn::quantize_bytes(args), [&](uint32_t i) {
    args.x = x + i % sets * values;
    bench.check(bench.table().kernels.quantize(bench.stream(), args));
  });
}

void bench_argmax(GpuBench& bench, uint32_t n_rows, uint32_t n) {
  const DeviceArgmaxArgs args{.x = random_floats(bench, uint64_t{n_rows} * n, 7),
                              .n_rows = n_rows,
                              .n = n,
                              .value = make<float>(bench, n_rows),
                              .index = make<int32_t>(bench, n_rows)};
  const std::string name = shape_name("argmax", n_rows, n);
  bench.check(bench.table().kernels.argmax(bench.stream(), args));
  const auto x = download(bench, args.x, uint64_t{n_rows} * n);
  const auto index = download(bench, args.index, n_rows);
  for (uint32_t row = 0; row < n_rows; ++row) {
    const auto from = x.begin() + static_cast<int64_t>(uint64_t{row} * n);
    if (index[row] != std::max_element(from, from + n) - from)
      throw std::runtime_error(name + ": row " + std::to_string(row) + " is wrong");
  }
  add_row(bench, name, 1, gpu_attn::argmax_bytes(args),
          [&](uint32_t) { bench.check(bench.table().kernels.argmax(bench.stream(), args)); });
}

constexpr uint32_t kKvHeads = 8;
constexpr uint32_t kGroup = 4;
constexpr uint32_t kHeadDim = 128;

/// Device addresses of blocks [n_kv_heads, n_blocks] in memory of their own.
std::byte** make_blocks(GpuBench& bench, const KvLayout& layout, uint32_t n_blocks) {
  auto* memory = make<std::byte>(bench, uint64_t{kKvHeads} * n_blocks * layout.block_bytes);
  std::vector<std::byte*> table(kKvHeads * n_blocks);
  for (uint32_t i = 0; i < table.size(); ++i) table[i] = memory + uint64_t{i} * layout.block_bytes;
  auto** blocks = make<std::byte*>(bench, table.size());
  bench.check(
      bench.table().copy(bench.stream(), blocks, table.data(), table.size() * sizeof(std::byte*)));
  bench.check(bench.table().wait_stream(bench.stream()));
  return blocks;
}

/// The queries of the last row are judged.
void check_rotate(GpuBench& bench, const DeviceRotateArgs& args, const std::string& name) {
  bench.check(bench.table().kernels.rotate(bench.stream(), args));
  const uint32_t n_queries = kKvHeads * kGroup;
  const uint64_t row = args.n_rows - 1;
  const auto q = download(bench, args.q + row * n_queries * kHeadDim, n_queries * kHeadDim);
  const auto angles = download(bench, args.cos_sin + row * kHeadDim, kHeadDim);
  const auto out = download(bench, args.q_out, uint64_t{args.n_rows} * n_queries * kHeadDim);
  std::vector<float> got;
  std::vector<double> wanted;
  for (uint32_t query = 0; query < n_queries; ++query)
    for (uint32_t i = 0; i < kHeadDim / 2; ++i) {
      const double a = double{q[query * kHeadDim + i]};
      const double b = double{q[query * kHeadDim + i + kHeadDim / 2]};
      const double c = double{angles[2 * i]}, s = double{angles[2 * i + 1]};
      wanted.push_back((a * c - b * s) * double{args.q_scale});
      got.push_back(
          out[((query / kGroup * args.n_rows + row) * kGroup + query % kGroup) * kHeadDim + i]);
    }
  expect_near(got, wanted, name);
}

void bench_rotate(GpuBench& bench, uint32_t n_rows, KvCodec codec) {
  const KvLayout layout = KvLayout::make(codec, codec, kHeadDim);
  const uint64_t q_values = uint64_t{n_rows} * kKvHeads * kGroup * kHeadDim;
  const uint64_t kv_values = q_values / kGroup;
  const uint32_t sets = n_sets(n_rows, q_values * 4 + kv_values * 8);
  const uint32_t n_blocks = n_rows / kBlockPositions + 2;
  std::vector<uint32_t> positions(n_rows);
  for (uint32_t row = 0; row < n_rows; ++row) positions[row] = 5 + row;
  auto* positions_at = make<uint32_t>(bench, n_rows);
  bench.check(bench.table().copy(bench.stream(), positions_at, positions.data(), n_rows * 4));
  bench.check(bench.table().wait_stream(bench.stream()));
  const float* q = random_floats(bench, q_values * sets, 8);
  const float* k = random_floats(bench, kv_values * sets, 9);
  const float* v = random_floats(bench, kv_values * sets, 10);
  DeviceRotateArgs args{};
  args.q = q;
  args.k = k;
  args.v = v;
  args.cos_sin = random_floats(bench, uint64_t{n_rows} * kHeadDim, 11);
  args.positions = positions_at;
  args.blocks = make_blocks(bench, layout, n_blocks);
  args.block_stride = n_blocks;
  args.layout = layout;
  args.q_out = make<float>(bench, q_values);
  args.n_rows = n_rows;
  args.n_kv_heads = kKvHeads;
  args.group = kGroup;
  args.n_rot = kHeadDim;
  args.pairing = RopePairing::kHalves;
  args.q_scale = 0.088f;
  args.norm_eps = kEps;
  const std::string name =
      shape_name("rotate", n_rows, kKvHeads * kGroup * kHeadDim) + " " + kv_codec_name(codec);
  check_rotate(bench, args, name);
  add_row(bench, name, n_rows, gpu_attn::rotate_bytes(args), [&](uint32_t i) {
    args.q = q + i % sets * q_values;
    args.k = k + i % sets * kv_values;
    args.v = v + i % sets * kv_values;
    bench.check(bench.table().kernels.rotate(bench.stream(), args));
  });
}

}  // namespace

void bench_rows(GpuBench& bench) {
  for (const uint32_t n_rows : {1u, 512u}) {
    bench_norm(bench, n_rows, 4096);
    bench_activate(bench, n_rows, 14336);
    bench_quantize(bench, n_rows, 4096);
    bench_quantize(bench, n_rows, 14336);
    bench_rotate(bench, n_rows, KvCodec::kF16);
    bench_rotate(bench, n_rows, KvCodec::kQ8_0);
  }
  bench_argmax(bench, 1, 151936);
  bench_argmax(bench, 8, 151936);
}

}  // namespace strata::gpu_bench
