// tools/bench_linear.cc - speed of the CPU's linear layers on one thread: decode in GB/s, also as a
// share of the DRAM read bandwidth measured in the same run, prefill in G operations/s. Every
// answer is compared with the scalar kernel's before its time is printed.
//
//   bench_linear [--n-out N] [--n-in N] [--n-rows N] [--isa NAME] [--types A,B] [--ms M]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/half.h"
#include "base/host_memory.h"
#include "base/thread_pool.h"
#include "cpu_attn/kernels.h"
#include "cpu_attn/pack.h"
#include "tools/cli/dram_read.h"

namespace strata {
namespace {

struct Options {
  uint32_t n_out = 1536;
  uint32_t n_in = 1536;
  uint32_t n_rows = 512;
  uint32_t ms = 60;
  uint32_t decode_mib = 256;
  std::string isa;
  std::vector<std::string> types;
};

/// Seconds of one call: the best of at least three, for `ms` milliseconds in all.
template <class Call>
double best_seconds(uint32_t ms, Call&& call) {
  using Clock = std::chrono::steady_clock;
  double best = 1e30;
  const auto end = Clock::now() + std::chrono::milliseconds(ms);
  for (int i = 0; i < 3 || Clock::now() < end; ++i) {
    const auto start = Clock::now();
    call();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

struct Rows {
  Rows(const KernelTable& table, uint32_t n_rows, uint32_t n_in)
      : x(uint64_t{n_rows} * n_in),
        q(x.size()),
        scales(x.size() / kActGroup + 1),
        neg_sums(x.size() / kActHalfGroup + 1) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (auto& value : x) value = normal(random);
    if (n_in % kActGroup == 0) table.quantize_rows(x.data(), n_rows, n_in, quant());
  }
  QuantRows quant() { return {q.data(), scales.data(), neg_sums.data()}; }
  std::vector<float> x;
  std::vector<int8_t> q;
  std::vector<float> scales;
  std::vector<int32_t> neg_sums;
};

/// Random rows of a type with finite scales: random bytes, each f16 of a header kept small.
std::vector<std::byte> draw_rows(const TensorTypeInfo& info, uint64_t bytes) {
  std::mt19937 random(2);
  std::vector<std::byte> rows(bytes);
  for (auto& byte : rows)
    byte = static_cast<std::byte>(random() & 0x3b);  // exponents stay finite in F32, F16 and BF16
  for (uint64_t at = 0; at + info.block_bytes <= bytes; at += info.block_bytes) {
    const bool at_end = info.type == TensorType::kQ2_K || info.type == TensorType::kQ3_K ||
                        info.type == TensorType::kQ6_K;
    if (info.block_elements == 1) continue;
    const uint16_t scale = f32_to_f16(0.01f);
    std::memcpy(rows.data() + at + (at_end ? info.block_bytes - 2 : 0), &scale, 2);
  }
  return rows;
}

bool run_type(const KernelTable& table, const TensorTypeInfo& info, const Options& options,
              double read_gbytes_per_s) {
  if (options.n_in % info.block_elements != 0) return true;
  PackedMatrix w{nullptr, info.type, options.n_out, options.n_in,
                 cpu_attn::panel_bytes(info.type, options.n_in)};
  // Decode reads matrices that no cache holds: as many copies as fill decode_mib.
  const auto n_copies =
      std::max<uint64_t>(1, (uint64_t{options.decode_mib} << 20) / w.total_bytes());
  const HostMemory memory = HostMemory::reserve(n_copies * w.total_bytes());
  const auto file = draw_rows(info, w.n_out * tensor_row_bytes(info.type, w.n_in));
  const double pack_s = best_seconds(0, [&] {
    cpu_attn::pack_panels(info.type, w.n_out, w.n_in, 0, w.n_panels(), file, memory.data());
  });
  for (uint64_t i = 1; i < n_copies; ++i)
    std::memcpy(memory.data() + i * w.total_bytes(), memory.data(), w.total_bytes());

  Rows rows(table, options.n_rows, options.n_in);
  std::vector<float> out(uint64_t{options.n_rows} * options.n_out);
  std::vector<float> wanted(out.size());
  w.bytes = memory.data();
  LinearArgs args{w, rows.x.data(), rows.quant(), out.data(), options.n_out, options.n_rows,
                  0, w.n_panels()};
  table.linear(args);
  LinearArgs check = args;
  check.out = wanted.data();
  check.n_rows = std::min(options.n_rows, 3u);
  cpu_attn::available_kernels().front()->linear(check);
  if (std::memcmp(out.data(), wanted.data(),
                  uint64_t{check.n_rows} * options.n_out * sizeof(float)) != 0) {
    std::fprintf(stderr, "%s: %s differs from scalar\n", std::string(info.name).c_str(),
                 table.name);
    return false;
  }

  const double prefill_s = best_seconds(options.ms, [&] { table.linear(args); });
  double decode_bytes_per_s[2] = {};
  for (uint32_t n_rows : {1u, 4u}) {
    LinearArgs decode = args;
    decode.n_rows = n_rows;
    const double seconds = best_seconds(options.ms, [&] {
      for (uint64_t i = 0; i < n_copies; ++i) {
        decode.w.bytes = memory.data() + i * w.total_bytes();
        table.linear(decode);
      }
    });
    decode_bytes_per_s[n_rows == 4] =
        static_cast<double>(n_copies * cpu_attn::linear_bytes(w)) / seconds;
  }
  const double operations = 2.0 * options.n_rows * options.n_out * options.n_in;
  std::printf("%-7s %-7s %8.2f %9.1f %4.0f%% %9.1f %9.1f %8.2f\n", std::string(info.name).c_str(),
              table.name, static_cast<double>(w.total_bytes()) / 1e6, decode_bytes_per_s[0] / 1e9,
              100 * decode_bytes_per_s[0] / 1e9 / read_gbytes_per_s, decode_bytes_per_s[1] / 1e9,
              operations / prefill_s / 1e9, static_cast<double>(file.size()) / pack_s / 1e9);
  return true;
}

int run(const Options& options) {
  const KernelTable& table = cpu_attn::choose_kernels(options.isa);
  HostMemory memory = HostMemory::reserve(uint64_t{options.decode_mib} << 20);
  std::memset(memory.data(), 1, memory.size());
  ThreadPool pool(1);
  const double read_gbytes_per_s = cli::measure_dram_read(pool, {memory.data(), memory.size()});
  memory = HostMemory();
  std::printf("n_out %u, n_in %u, prefill of %u rows, one thread, %s; memory reads %.1f GB/s\n",
              options.n_out, options.n_in, options.n_rows, table.features, read_gbytes_per_s);
  std::printf("type    set       MB     GB/s  share   4 rows     GOP/s  pack GB/s\n");
  for (const auto& info : tensor_types()) {
    const bool wanted =
        options.types.empty() || std::ranges::find(options.types, info.name) != options.types.end();
    if (wanted && !run_type(table, info, options, read_gbytes_per_s)) return 1;
  }
  return 0;
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  strata::Options options;
  CLI::App app("Speed of the CPU's linear layers");
  app.add_option("--n-out", options.n_out)->check(CLI::Range(1, 1 << 20));
  app.add_option("--n-in", options.n_in)->check(CLI::Range(1, 1 << 20));
  app.add_option("--n-rows", options.n_rows)->check(CLI::Range(4, 1 << 16));
  app.add_option("--ms", options.ms, "least milliseconds per measurement");
  app.add_option("--decode-mib", options.decode_mib, "memory that decode reads");
  app.add_option("--isa", options.isa);
  app.add_option("--types", options.types)->delimiter(',');
  CLI11_PARSE(app, argc, argv);
  return strata::run(options);
}
