// tools/bench_linear.cc - speed of the CPU's linear layers: decode in GB/s, also as a share of the
// DRAM read bandwidth that as many threads have in the same run, prefill in G operations/s, also as
// a share of the peak of its arithmetic. Packing, by one thread, goes from one matrix's rows to
// `decode-mib` of panels, by processor time; "copy" is a plain copy of the same bytes, "lanes" the
// reference that packs a lane at a time. Every answer is compared with the scalar kernel's before
// its time is printed.
//
//   bench_linear [--n-out N] [--n-in N] [--n-rows N] [--isa NAME] [--types A,B] [--ms M]
//                [--threads N] [--no-amx]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/host_memory.h"
#include "base/seconds_since.h"
#include "base/thread_pool.h"
#include "cpu_attn/kernels.h"
#include "cpu_attn/linear.h"
#include "tools/cli/compute_peak.h"
#include "tools/cli/dram_read.h"
#include "tools/cli/linear_trial.h"

namespace strata {
namespace {

struct Options {
  uint32_t n_out = 1536;
  uint32_t n_in = 1536;
  uint32_t n_rows = 512;
  uint32_t ms = 60;
  uint32_t decode_mib = 256;
  uint32_t threads = 1;
  bool no_amx = false;
  std::string isa;
  std::vector<std::string> types;
};

/// What the machine gave in the same run.
struct Ceilings {
  double read_gbytes_per_s = 0;
  cli::ComputePeak peak;
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
    best = std::min(best, seconds_since(start));
  }
  return best;
}

/// Processor seconds that this thread takes for one call, the best of three.
template <class Call>
double best_thread_seconds(Call&& call) {
  const auto now = [] {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  double best = 1e30;
  for (int i = 0; i < 3; ++i) {
    const double start = now();
    call();
    best = std::min(best, now() - start);
  }
  return best;
}

bool run_type(const KernelTable& table, ThreadPool& pool, const TensorTypeInfo& info,
              const Options& options, const Ceilings& ceilings) {
  if (options.n_in % info.block_elements != 0) return true;
  cli::LinearTrial trial(table, info.type,
                         {.n_out = options.n_out,
                          .n_in = options.n_in,
                          .n_rows = options.n_rows,
                          .memory_bytes = uint64_t{options.decode_mib} << 20});
  if (!trial.is_right()) {
    std::fprintf(stderr, "%s: %s differs from scalar\n", std::string(info.name).c_str(),
                 table.name);
    return false;
  }
  const double copy_s = best_thread_seconds([&] { trial.copy_all(); });
  const double by_lanes_s = best_thread_seconds([&] { trial.pack_all_by_lanes(); });
  const double pack_s = best_thread_seconds([&] { trial.pack_all(); });
  const double prefill_s = best_seconds(options.ms, [&] { trial.prefill(pool); });
  const auto decode_bytes_per_s = [&](uint32_t n_rows) {
    const double seconds = best_seconds(options.ms, [&] { trial.decode(pool, n_rows); });
    return static_cast<double>(trial.decode_bytes()) / seconds;
  };
  const double one = decode_bytes_per_s(1), four = decode_bytes_per_s(4);
  const double pack_gbytes = static_cast<double>(trial.n_copies() * trial.file_bytes()) / 1e9;
  const double gop_per_s = trial.prefill_flops() / prefill_s / 1e9;
  const bool is_quantised = info.block_elements > 1;
  const double peak =
      ceilings.peak.of(is_quantised ? cli::Arithmetic::kInt8 : cli::Arithmetic::kF32);
  std::printf("%-7s %-7s %8.2f %9.1f %4.0f%% %9.1f %9.1f %4.0f%% %9.2f %6.2f %6.2f\n",
              std::string(info.name).c_str(), table.name,
              static_cast<double>(trial.matrix().total_bytes()) / 1e6, one / 1e9,
              100 * one / 1e9 / ceilings.read_gbytes_per_s, four / 1e9, gop_per_s,
              peak > 0 ? 100 * gop_per_s / peak : 0, pack_gbytes / pack_s, pack_gbytes / copy_s,
              pack_gbytes / by_lanes_s);
  return true;
}

int run(const Options& options) {
  KernelTable table = cpu_attn::choose_kernels(options.isa);
  if (options.no_amx && table.has_tiles) {
    cpu_attn::fill_linear_avx512(table);
    table.features = "avx512 without amx";
  }
  HostMemory memory = HostMemory::reserve(uint64_t{options.decode_mib} << 20);
  std::memset(memory.data(), 1, memory.size());
  ThreadPool pool(options.threads);
  const Ceilings ceilings{cli::measure_dram_read(pool, {memory.data(), memory.size()}),
                          cli::measure_compute_peak(pool, table)};
  const double tiles = table.has_tiles ? cli::measure_tile_peak(pool) : 0;
  memory = HostMemory();
  std::printf(
      "n_out %u, n_in %u, prefill of %u rows, %u thread(s), %s; memory reads %.1f GB/s, peaks "
      "f32 %.0f GFLOP/s, int8 %.0f GOP/s (in tiles %.0f)\n",
      options.n_out, options.n_in, options.n_rows, options.threads, table.features,
      ceilings.read_gbytes_per_s, ceilings.peak.f32_gflop_per_s, ceilings.peak.int8_gop_per_s,
      tiles);
  std::printf(
      "type    set       MB     GB/s share    4 rows     GOP/s  peak pack GB/s   copy  lanes\n");
  for (const auto& info : tensor_types()) {
    const bool wanted =
        options.types.empty() || std::ranges::find(options.types, info.name) != options.types.end();
    if (wanted && !run_type(table, pool, info, options, ceilings)) return 1;
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
  app.add_flag("--no-amx", options.no_amx, "tiles left out");
  app.add_option("--types", options.types)->delimiter(',');
  app.add_option("--threads", options.threads)->check(CLI::Range(1, 1024));
  CLI11_PARSE(app, argc, argv);
  return strata::run(options);
}
