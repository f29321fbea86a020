#include "tools/cli/compute_peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "base/check.h"
#include "base/seconds_since.h"
#include "cpu_attn/peak.h"

namespace strata::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kRounds = 20'000;  // some hundred microseconds
constexpr int kPasses = 50;

double measure(ThreadPool& pool, cpu_attn::PeakLoop loop) {
  if (loop == nullptr) return 0;
  const double of_thread = loop(1) * static_cast<double>(kRounds);
  double best_s = 1e30;
  for (int pass = 0; pass < kPasses; ++pass) {
    std::atomic<uint32_t> n_right = 0;
    const auto start = Clock::now();
    pool.run([&](uint32_t) {
      if (loop(kRounds) == of_thread) n_right.fetch_add(1, std::memory_order_relaxed);
    });
    best_s = std::min(best_s, seconds_since(start));
    STRATA_CHECK(n_right.load() == pool.size(), "%u of %u threads counted right", n_right.load(),
                 pool.size());
  }
  return 2 * of_thread * pool.size() / best_s / 1e9;
}

}  // namespace

const char* arithmetic_name(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::kF32:
      return "f32";
    case Arithmetic::kInt8:
      return "int8";
    case Arithmetic::kInt8Pair:
      return "int8-pair";
  }
  return "";
}

Arithmetic attend_arithmetic(KvCodec k_codec, KvCodec v_codec) {
  const bool is_bytes = k_codec == KvCodec::kQ8_0 && v_codec == KvCodec::kQ8_0;
  return is_bytes ? Arithmetic::kInt8Pair : Arithmetic::kF32;
}

double ComputePeak::of(Arithmetic arithmetic) const {
  if (arithmetic == Arithmetic::kF32) return f32_gflop_per_s;
  return arithmetic == Arithmetic::kInt8 ? int8_gop_per_s : int8_gop_per_s / 2;
}

ComputePeak measure_compute_peak(ThreadPool& pool, const KernelTable& kernels) {
  const cpu_attn::PeakLoops loops = cpu_attn::peak_loops(kernels.isa);
  return {measure(pool, loops.f32), measure(pool, loops.int8)};
}

double measure_tile_peak(ThreadPool& pool) { return measure(pool, cpu_attn::peak_int8_tiles()); }

}  // namespace strata::cli
