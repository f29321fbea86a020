// tools/gpu/bench_linear.cc - linear layers of few rows on a card, as shares of a plain copy's
// bytes per second; and the embedding. Weights are random panels, of which so many are used in turn
// that none stays in the second cache. Outputs of three panels of each matrix are compared with
// sums in double before a time is kept.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu_attn/pack.h"
#include "gpu_attn/linear_bytes.h"
#include "tools/gpu/gpu_bench.h"

namespace strata::gpu_bench {
namespace {

constexpr uint32_t kInputsMax = 14336;
constexpr uint32_t kSeed = 11;
constexpr uint32_t kSmallOutputs = 48;  // of a dry run, and inputs, at most
constexpr uint32_t kSmallInputs = 768;

struct Shape {
  TensorType type;
  uint32_t n_out;
};

struct LinearBench {
  std::vector<Shape> matrices;
  uint32_t n_in;
  uint32_t n_rows = 1;
};

bool is_float(TensorType type) { return tensor_type_info(type).block_elements == 1; }

template <class T>
T* upload(GpuBench& bench, const std::vector<T>& values) {
  const uint64_t bytes = values.size() * sizeof(T);
  auto* to = static_cast<T*>(bench.make(bytes));
  bench.check(bench.table().copy(bench.stream(), to, values.data(), bytes));
  bench.check(bench.table().wait_stream(bench.stream()));
  return to;
}

template <class T>
std::vector<T> download(GpuBench& bench, const T* from, uint64_t n) {
  std::vector<T> values(n);
  bench.check(bench.table().copy(bench.stream(), values.data(), from, n * sizeof(T)));
  bench.check(bench.table().wait_stream(bench.stream()));
  return values;
}

/// Rows of the widest input, here and on the card; narrower inputs read their beginning.
struct Rows {
  explicit Rows(GpuBench& bench) {
    std::mt19937 random(kSeed);
    std::normal_distribution<float> normal;
    for (uint32_t i = 0; i < kDeviceFewRows * kInputsMax; ++i) {
      x.push_back(normal(random));
      q.push_back(static_cast<int8_t>(static_cast<int>(random() % 255) - 127));
    }
    for (uint64_t i = 0; i < q.size() / kActGroup; ++i) scales.push_back(std::abs(normal(random)));
    for (uint64_t i = 0; i < q.size(); i += kActHalfGroup) {
      int32_t sum = 0;
      for (uint64_t j = i; j < i + kActHalfGroup; ++j) sum -= q[j];
      neg_sums.push_back(sum);
    }
    on_card = {upload(bench, q), upload(bench, scales), upload(bench, neg_sums)};
    x_on_card = upload(bench, x);
  }
  std::vector<float> x;
  std::vector<int8_t> q;
  std::vector<float> scales;
  std::vector<int32_t> neg_sums;
  QuantRows on_card{};
  const float* x_on_card = nullptr;
};

/// Panel `panel` of `w`, brought here.
struct HostPanel {
  HostPanel(GpuBench& bench, const PackedMatrix& w, uint32_t panel)
      : bytes(download(bench, w.bytes + panel * w.panel_bytes, w.panel_bytes)), view(w) {
    view.bytes = bytes.data();
    view.n_out = std::min(kPanelRows, w.n_out - panel * kPanelRows);
  }
  std::vector<std::byte> bytes;
  PackedMatrix view;
};

/// Throws where an output of the panel is further from the sum in double than 8 n u sum |w x| for n
/// additions: sums of f32 with room for what a weight's minimum takes away from its main part.
void check_panel(GpuBench& bench, const DeviceLinearArgs& args, uint32_t j, const Rows& rows,
                 uint32_t panel, const std::string& name) {
  const PackedMatrix& w = args.w[j];
  const HostPanel host(bench, w, panel);
  const std::vector<float> out = download(bench, args.out[j], uint64_t{args.n_rows} * w.n_out);
  std::vector<float> weights(w.n_in);
  for (uint32_t lane = 0; lane < host.view.n_out; ++lane) {
    cpu_attn::unpack_row(host.view, lane, weights);
    for (uint32_t r = 0; r < args.n_rows; ++r) {
      double sum = 0, size = 0;
      for (uint32_t k = 0; k < w.n_in; ++k) {
        const uint64_t at = uint64_t{r} * w.n_in + k;
        const double x = is_float(w.type) ? double{rows.x[at]}
                                          : double{rows.scales[at / kActGroup]} * rows.q[at];
        sum += double{weights[k]} * x;
        size += std::abs(double{weights[k]} * x);
      }
      const double n = (is_float(w.type) ? 1.0 : 0.125) * w.n_in + 22;
      const double value = double{out[uint64_t{r} * w.n_out + panel * kPanelRows + lane]};
      if (!(std::abs(value - sum) <= 8 * n * 0x1p-24 * size))
        throw std::runtime_error(name + ": row " + std::to_string(r) + " output " +
                                 std::to_string(panel * kPanelRows + lane) + " is " +
                                 std::to_string(value) + ", wanted " + std::to_string(sum));
    }
  }
}

std::string name_of(const LinearBench& one) {
  std::string name = "linear";
  for (const Shape& shape : one.matrices)
    name +=
        ' ' + std::string(tensor_type_info(shape.type).name) + ' ' + std::to_string(shape.n_out);
  return name + " x " + std::to_string(one.n_in) + ", rows " + std::to_string(one.n_rows);
}

DeviceLinearArgs args_of(const LinearBench& one, const Rows& rows) {
  DeviceLinearArgs args{};
  args.n_matrices = static_cast<uint32_t>(one.matrices.size());
  for (uint32_t j = 0; j < args.n_matrices; ++j) {
    const Shape& shape = one.matrices[j];
    args.w[j] = {nullptr, shape.type, shape.n_out, one.n_in,
                 cpu_attn::panel_bytes(shape.type, one.n_in)};
  }
  args.x = rows.x_on_card;
  args.quant = rows.on_card;
  args.n_rows = one.n_rows;
  return args;
}

uint64_t weight_bytes(const DeviceLinearArgs& args) {
  uint64_t bytes = 0;
  for (uint32_t j = 0; j < args.n_matrices; ++j) bytes += args.w[j].total_bytes();
  return bytes;
}

/// Sets of weights that together are twice what the second cache holds.
uint32_t n_sets(const GpuBench& bench, uint64_t bytes) {
  if (bench.is_small()) return 2;
  const uint64_t wanted = 2 * std::max<uint64_t>(bench.facts().l2_bytes, 32 << 20);
  return static_cast<uint32_t>(std::max<uint64_t>(2, (wanted + bytes - 1) / bytes));
}

void place_weights(DeviceLinearArgs& args, std::byte* set) {
  for (uint32_t j = 0; j < args.n_matrices; ++j) {
    args.w[j].bytes = set;
    set += args.w[j].total_bytes();
  }
}

void run(GpuBench& bench, const LinearBench& one, const Rows& rows, std::byte* pool) {
  DeviceLinearArgs args = args_of(one, rows);
  const std::string name = name_of(one);
  const uint64_t bytes = weight_bytes(args);
  for (uint32_t j = 0; j < args.n_matrices; ++j)
    args.out[j] =
        static_cast<float*>(bench.make(uint64_t{args.n_rows} * args.w[j].n_out * sizeof(float)));
  place_weights(args, pool);
  bench.check(bench.table().kernels.linear(bench.stream(), args));
  for (uint32_t j = 0; j < args.n_matrices; ++j) {
    const uint32_t n_panels = args.w[j].n_panels();
    for (const uint32_t panel : {0u, n_panels / 2, n_panels - 1})
      check_panel(bench, args, j, rows, panel, name);
  }
  const uint32_t sets = n_sets(bench, bytes);
  BenchRow row = bench.time(name, [&](uint32_t i) {
    place_weights(args, pool + i % sets * bytes);
    bench.check(bench.table().kernels.linear(bench.stream(), args));
  });
  row.bytes = gpu_attn::linear_bytes(args);
  row.ceiling = "copy";
  row.share = static_cast<double>(row.bytes) / (row.us * 1e-6) / bench.copy_bytes_per_s();
  bench.add(std::move(row));
}

void run_embed(GpuBench& bench, std::byte* pool) {
  constexpr uint32_t kRows = 512;
  const uint32_t n_out = bench.is_small() ? kSmallOutputs : 128256;
  const uint32_t n_in = bench.is_small() ? kSmallInputs : 4096;
  const PackedMatrix w{pool, TensorType::kQ6_K, n_out, n_in,
                       cpu_attn::panel_bytes(TensorType::kQ6_K, n_in)};
  std::mt19937 random(kSeed);
  std::vector<int32_t> tokens;
  for (uint32_t i = 0; i < kRows; ++i) tokens.push_back(static_cast<int32_t>(random() % w.n_out));
  const DeviceEmbedArgs args{
      .matrix = w,
      .tokens = upload(bench, tokens),
      .out = static_cast<float*>(bench.make(uint64_t{kRows} * w.n_in * sizeof(float))),
      .n_rows = kRows,
      .scale = 1};
  bench.check(bench.table().kernels.embed(bench.stream(), args));
  std::vector<float> wanted(w.n_in);
  for (uint32_t i = 0; i < kRows; i += 100) {
    const auto token = static_cast<uint32_t>(tokens[i]);
    const HostPanel host(bench, w, token / kPanelRows);
    cpu_attn::unpack_row(host.view, token % kPanelRows, wanted);
    if (download(bench, args.out + uint64_t{i} * w.n_in, w.n_in) != wanted)
      throw std::runtime_error("embed: row " + std::to_string(i) + " differs from the CPU's");
  }
  BenchRow row = bench.time("embed Q6_K 128256 x 4096, rows 512", [&](uint32_t) {
    bench.check(bench.table().kernels.embed(bench.stream(), args));
  });
  row.bytes = gpu_attn::embed_bytes(args);
  row.ceiling = "copy";
  row.share = static_cast<double>(row.bytes) / (row.us * 1e-6) / bench.copy_bytes_per_s();
  bench.add(std::move(row));
}

std::vector<LinearBench> linear_benches(bool is_small) {
  std::vector<LinearBench> benches;
  for (const TensorType type : {TensorType::kQ4_0, TensorType::kQ4_K, TensorType::kQ6_K,
                                TensorType::kQ8_0, TensorType::kF16})
    for (const auto& [n_out, n_in] : {std::pair{4096u, 4096u}, {14336u, 4096u}, {4096u, 14336u}})
      benches.push_back({{{type, n_out}}, n_in});
  for (const TensorType type : {TensorType::kQ2_K, TensorType::kQ3_K, TensorType::kQ5_K,
                                TensorType::kIQ4_XS, TensorType::kBF16})
    benches.push_back({{{type, 14336}}, 4096});
  for (const uint32_t n_rows : {2u, 4u, 8u})
    for (const auto& [n_out, n_in] : {std::pair{4096u, 4096u}, {14336u, 4096u}, {4096u, 14336u}})
      benches.push_back({{{TensorType::kQ4_K, n_out}}, n_in, n_rows});
  for (const TensorType type : {TensorType::kQ6_K, TensorType::kQ8_0, TensorType::kF16})
    benches.push_back({{{type, 14336}}, 4096, 8});
  benches.push_back({{{TensorType::kQ6_K, 128256}}, 4096});
  // What one layer of an 8B model and one of SmolLM2 read at once.
  benches.push_back(
      {{{TensorType::kQ4_K, 4096}, {TensorType::kQ4_K, 1024}, {TensorType::kQ6_K, 1024}}, 4096});
  benches.push_back({{{TensorType::kQ4_1, 1536}, {TensorType::kQ4_1, 1536}}, 576});
  benches.push_back(
      {{{TensorType::kQ4_1, 576}, {TensorType::kQ4_1, 192}, {TensorType::kQ4_1, 192}}, 576});
  benches.push_back(
      {{{TensorType::kQ4_1, 1536}, {TensorType::kQ4_1, 1536}, {TensorType::kQ4_1, 1536}}, 576});
  if (is_small)
    for (LinearBench& one : benches) {
      one.n_in = std::min(one.n_in, kSmallInputs);
      for (Shape& shape : one.matrices) shape.n_out = std::min(shape.n_out, kSmallOutputs);
    }
  return benches;
}

}  // namespace

void bench_linear(GpuBench& bench) {
  const Rows rows(bench);
  uint64_t pool_bytes = 0;
  for (const LinearBench& one : linear_benches(bench.is_small())) {
    const uint64_t bytes = weight_bytes(args_of(one, rows));
    pool_bytes = std::max(pool_bytes, bytes * n_sets(bench, bytes));
  }
  auto* pool = static_cast<std::byte*>(bench.random_bytes(pool_bytes, kSeed));
  for (const LinearBench& one : linear_benches(bench.is_small())) run(bench, one, rows, pool);
  run_embed(bench, pool);
}

}  // namespace strata::gpu_bench
