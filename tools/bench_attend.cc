// tools/bench_attend.cc - speed of the attention kernels on one thread: decode from DRAM in GB/s,
// prefill from cache in GFLOP/s, each beside a peak measured in the same run. The answer is checked
// against double precision before anything is timed. Why: a kernel's figure says something only as
// a share of what the machine gave in the same minute.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include "base/check.h"
#include "base/half.h"
#include "base/host_memory.h"
#include "base/seconds_since.h"
#include "base/thread_pool.h"
#include "cpu_attn/attend.h"
#include "cpu_attn/kernels.h"
#include "tools/cli/attend_trial.h"
#include "tools/cli/compute_peak.h"
#include "tools/cli/dram_read.h"

namespace strata {
namespace {

struct Options {
  uint32_t head_dim = 64;
  uint32_t group = 3;
  uint32_t rows = 0;  // of the prefill tile: rows * group queries; 0 = as many as it holds
  uint64_t megabytes = 256;
  uint32_t streams = 1;  // blocks of a stream are this many blocks apart
  uint32_t repeats = 3;
  std::string isa;
  bool hint = true;
};

/// Median of the times of work(0) .. work(n - 1). Slices last well under a scheduler's turn, so
/// that a busy neighbour spoils few.
double median_seconds(uint64_t n, const std::function<void(uint64_t)>& work) {
  std::vector<double> times;
  for (uint64_t i = 0; i < n; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work(i);
    times.push_back(seconds_since(start));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

constexpr uint64_t kSliceBytes = uint64_t{8} << 20;
constexpr uint64_t kSpanSegments = 4;  // a walk prepares queries once for the segments of a span

/// Attends the first segment and compares o / l of every query with double precision over f16
/// blocks. q8_0 is left to the tests, which decode it apart.
void check_answer(const KernelTable& table, const KvLayout& layout, const cli::TrialBlocks& blocks,
                  cli::TrialTile& tile) {
  const std::byte* list[8];
  blocks.segment(0, 1, list);
  table.attend_segment(tile.args(layout, list));
  if (layout.k_codec != KvCodec::kF16) return;
  const uint32_t head_dim = layout.head_dim;
  for (uint32_t i = 0; i < tile.m.size(); ++i) {
    std::vector<double> out(head_dim);
    double total = 0;
    for (uint32_t p = 0; p < kSegmentPositions; ++p) {
      const auto* k = reinterpret_cast<const uint16_t*>(list[p / 32]) + p % 32;
      const auto* v =
          reinterpret_cast<const uint16_t*>(list[p / 32] + layout.v_offset) + p % 32 * head_dim;
      double score = 0;
      for (uint32_t d = 0; d < head_dim; ++d)
        score += double{tile.q[i * head_dim + d]} * f16_to_f32(k[d * 32]);
      total += std::exp(score);
      for (uint32_t d = 0; d < head_dim; ++d) out[d] += std::exp(score) * f16_to_f32(v[d]);
    }
    for (uint32_t d = 0; d < head_dim; ++d) {
      const double error = std::abs(tile.o[i * head_dim + d] / tile.l[i] - out[d] / total);
      STRATA_CHECK(error < 1e-5, "query %u dimension %u is wrong by %g", i, d, error);
    }
  }
}

void bench_codec(const KernelTable& table, KvCodec codec, const Options& options,
                 HostMemory& memory, const cli::ComputePeak& peak, double read_gbytes) {
  const KvLayout layout = KvLayout::make(codec, codec, options.head_dim);
  const cli::TrialBlocks blocks(table, layout, memory);
  cli::TrialTile decode(options.group, options.head_dim);
  cli::TrialTile prefill(options.group * options.rows, options.head_dim);
  check_answer(table, layout, blocks, decode);
  check_answer(table, layout, blocks, prefill);

  const auto segment_bytes = static_cast<double>(cpu_attn::attend_bytes(layout, kSegmentPositions));
  const std::byte* list[8];
  const std::byte* next[8];
  const uint64_t per_slice = kSliceBytes / (8 * layout.block_bytes);
  const uint64_t n_slices = blocks.n_segments() / per_slice;
  const double decode_s = median_seconds(n_slices * options.repeats, [&](uint64_t i) {
    for (uint64_t s = i % n_slices * per_slice; s < (i % n_slices + 1) * per_slice; ++s) {
      blocks.segment(s, options.streams, list);
      blocks.segment(std::min(s + 1, blocks.n_segments() - 1), options.streams, next);
      AttendArgs args = decode.args(layout, list);
      args.next_blocks = next;
      args.n_next_blocks = options.hint ? 8 : 0;
      args.has_prepared_q = s % kSpanSegments != 0;
      table.attend_segment(args);
    }
  });
  const auto attend = [&](cli::TrialTile& tile, uint64_t i) {
    AttendArgs args = tile.args(layout, list);
    args.has_prepared_q = i % kSpanSegments != 0;
    table.attend_segment(args);
  };
  blocks.segment(0, 1, list);
  const double cached_s = median_seconds(101, [&](uint64_t) {
    for (uint32_t i = 0; i < 20; ++i) attend(decode, i);
  });
  const double span_s = median_seconds(51, [&](uint64_t i) {
    for (uint64_t s = 0; s < kSpanSegments; ++s) {
      blocks.segment((i * kSpanSegments + s) % 8, 1, list);
      attend(prefill, s);
    }
  });
  const double gbytes = segment_bytes * static_cast<double>(per_slice) / decode_s * 1e-9;
  const uint64_t pairs = kSpanSegments * kSegmentPositions * options.group * options.rows;
  const double gflops =
      static_cast<double>(cpu_attn::attend_flops(pairs, options.head_dim)) / span_s * 1e-9;
  const cli::Arithmetic arithmetic = cli::attend_arithmetic(codec, codec);
  std::printf(
      "%-7s %-5s decode %6.2f GB/s (%3.0f %% of read; in cache %6.2f)   prefill %6.1f GFLOP/s",
      table.name, kv_codec_name(codec), gbytes, 100 * gbytes / read_gbytes,
      segment_bytes * 20 / cached_s * 1e-9, gflops);
  if (const double roof = peak.of(arithmetic); roof > 0)  // of a set whose peak is known
    std::printf(" (%3.0f %% of the %s peak, %.0f)", 100 * gflops / roof,
                cli::arithmetic_name(arithmetic), roof);
  std::printf("\n");
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  strata::Options options;
  CLI::App app("Times the attention kernels on one thread");
  app.add_option("--head-dim", options.head_dim, "dimensions of a head")
      ->check(CLI::Range(32u, 512u));
  app.add_option("--group", options.group, "queries of a decode step")->check(CLI::Range(1u, 16u));
  app.add_option("--rows", options.rows, "rows of a prefill tile; 0 = as many as it holds")
      ->check(CLI::Range(0u, strata::kMaxTileQueries));
  app.add_option("--megabytes", options.megabytes, "KV bytes that a decode pass reads")
      ->check(CLI::Range(16u, 4096u));
  app.add_option("--streams", options.streams, "distance of a stream's blocks, in blocks")
      ->check(CLI::Range(1u, 4096u));
  app.add_option("--repeats", options.repeats,
                 "passes over the KV bytes; figures are medians of slices")
      ->check(CLI::Range(1u, 100u));
  app.add_option("--isa", options.isa, "only this instruction set");
  app.add_flag("!--no-hint", options.hint, "do not tell the kernel the blocks of its next call");
  CLI11_PARSE(app, argc, argv);
  const uint32_t n_most = strata::kMaxTileQueries / options.group;
  if (options.rows > n_most) {
    std::fprintf(stderr, "a tile holds %u rows of %u queries: lower --rows\n", n_most,
                 options.group);
    return 2;
  }
  if (options.rows == 0) options.rows = n_most;
  strata::HostMemory memory = strata::HostMemory::reserve(options.megabytes << 20);
  std::fill_n(memory.data(), memory.size(), std::byte{1});
  strata::ThreadPool pool(1);
  const double read = strata::cli::measure_dram_read(pool, {memory.data(), memory.size()});
  std::printf("head_dim %u, group %u, prefill %u queries, blocks %u apart; read %.1f GB/s\n",
              options.head_dim, options.group, options.group * options.rows, options.streams, read);
  for (const strata::KernelTable* table : strata::cpu_attn::available_kernels()) {
    if (!options.isa.empty() && options.isa != table->name) continue;
    const strata::cli::ComputePeak peak = strata::cli::measure_compute_peak(pool, *table);
    for (const strata::KvCodec codec : {strata::KvCodec::kF16, strata::KvCodec::kQ8_0}) {
      strata::bench_codec(*table, codec, options, memory, peak, read);
    }
  }
  return 0;
}
