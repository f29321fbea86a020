#include "tools/cli/calibrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/host_memory.h"
#include "base/index_kernels.h"
#include "base/seconds_since.h"
#include "planner/rate_fit.h"
#include "tools/cli/attend_trial.h"
#include "tools/cli/bench_fill.h"
#include "tools/cli/calibrate_disk.h"
#include "tools/cli/dram_read.h"
#include "tools/cli/index_trial.h"
#include "tools/cli/linear_trial.h"
#include "tools/cli/raw_disk.h"
#include "tools/cli/sample_statistics.h"
#include "tools/cli/walk_trial.h"

namespace strata::cli {
namespace {

using Clock = std::chrono::steady_clock;
using planner::MachineProfile;

constexpr uint32_t kReadPasses = 7;  // each the best of 25 of its own
constexpr uint32_t kPairTurns = 3;
constexpr double kPairPassS = 5;  // of reading the test file in order; beyond that no pair is tried
constexpr double kPairS = 6;      // then no further turn begins
constexpr size_t kClearShare = 10;  // one of so many passes counts as undisturbed
constexpr double kDisturbed = 1.5;
constexpr uint64_t kIndexBytes = uint64_t{8} << 20;  // of rows; codebooks take time to train
constexpr uint64_t kCopyPiece = uint64_t{256} << 10;
constexpr uint64_t kCopySlice = 16;  // pieces
// Of the models that tell what a layer takes: the weights of all fit second-level caches. In turns,
// for a machine that drifts between them bends the line.
constexpr uint32_t kLayerCounts[] = {4, 8, 12};
constexpr uint32_t kStepTurns = 7;
constexpr uint32_t kShortSteps = 16;  // so many times as many passes: each takes a tenth of a ms
constexpr uint64_t kCheckedBytes = uint64_t{4} << 20;  // of K and V that a kernel is checked on
constexpr uint32_t kAttendingRows = 192;               // of a prompt: some tiles of every KV head
// As wide as small models are: what rows hold lies beyond first caches.
constexpr WalkTrialShape kRowsShape{.n_layers = 3,
                                    .n_kv_heads = 2,
                                    .width = 512,
                                    .d_ff = 1536,
                                    .n_held = kExtentPositions,
                                    .n_tokens = WalkTrial::kReadRowsMax};

/// Those that scan the most of a context, key by key.
bool is_index_measured(index::Method method, uint32_t head_dim) {
  if (method == index::Method::kPq) return head_dim % kPqSubspaces == 0;
  return method == index::Method::kRabitq;
}

class Calibration {
 public:
  Calibration(const CalibrateOptions& options, ThreadPool& pool, MachineProfile& profile)
      : options_(options), pool_(pool), profile_(profile) {}

  void measure_memory();
  void measure_linear(TensorType type);
  void measure_steps();
  void measure_rows();
  void measure_attention(KvCodec codec, uint32_t head_dim);
  void measure_index(const index::MethodName& of, uint32_t head_dim);
  void measure_pairs(RawDisk& disk);

  uint32_t n_disturbed = 0;  // figures whose median was far slower

 private:
  /// Mean seconds of call(slice) over the slices, of each those that a tenth of its n_passes stay
  /// below, after one call that is not counted. Slices last well under a scheduler's turn: on an
  /// idle machine this is the median but for some percent, and a busy neighbour that spoils most
  /// passes (each waits for the slowest thread) leaves some. Why of each slice: a cache may keep
  /// the same few of them from pass to pass.
  template <class Call>
  double clear_seconds(uint64_t n_slices, const Call& call) {
    constexpr size_t kPassesMin = 3;
    check_bench_cancelled(options_.cancel);
    call(0);
    std::vector<std::vector<double>> seconds(n_slices);
    const auto begin = Clock::now();
    for (size_t n = 0;
         n < options_.n_passes && (n < kPassesMin || seconds_since(begin) < options_.pass_s_max);
         ++n)
      for (uint64_t slice = 0; slice < n_slices; ++slice) {
        const auto start = Clock::now();
        call(slice);
        seconds[slice].push_back(seconds_since(start));
      }
    double clear = 0, usual = 0;
    for (std::vector<double>& of : seconds) {
      usual += median(of);
      std::ranges::sort(of);
      clear += of[of.size() / kClearShare];
    }
    n_disturbed += usual > kDisturbed * clear;
    return clear / static_cast<double>(n_slices);
  }
  template <class Call>
  void measure_pair(RawDisk& disk, const std::string& name, const Call& compute);
  template <class Call>
  double passes_per_s(const Call& call);
  double read_for(RawDisk& disk, double seconds);
  void measure_walked(WalkTrial& trial, const WalkTrialShape& shape, planner::AttendRate& rate);

  const CalibrateOptions& options_;
  ThreadPool& pool_;
  MachineProfile& profile_;
};

void Calibration::measure_memory() {
  std::vector<double> rates;
  for (uint32_t i = 0; i < kReadPasses; ++i) {
    check_bench_cancelled(options_.cancel);
    rates.push_back(measure_dram_read(pool_, {}) * 1e9);
  }
  profile_.dram_read_bytes_per_s = std::ranges::max(rates);

  const uint64_t bytes = round_up(options_.memory_bytes, kCopySlice * kCopyPiece);
  const HostMemory from = HostMemory::reserve(bytes), to = HostMemory::reserve(bytes);
  pool_.for_each(bytes / kCopyPiece, 1, [&](uint64_t begin, uint64_t end, uint32_t) {
    for (uint64_t piece = begin; piece < end; ++piece)
      std::memset(from.data() + piece * kCopyPiece, static_cast<int>(piece % 251 + 1), kCopyPiece);
  });
  const auto copy = [&](uint64_t slice) {
    pool_.for_each(kCopySlice, 1, [&](uint64_t begin, uint64_t end, uint32_t) {
      const uint64_t at = (slice * kCopySlice + begin) * kCopyPiece;
      std::memcpy(to.data() + at, from.data() + at, (end - begin) * kCopyPiece);
    });
  };
  const uint64_t n_slices = bytes / (kCopySlice * kCopyPiece);
  for (uint64_t i = 0; i < n_slices; ++i) copy(i);
  STRATA_CHECK(std::memcmp(from.data(), to.data(), bytes) == 0, "%lu bytes copied wrongly",
               static_cast<unsigned long>(bytes));
  const double seconds = clear_seconds(n_slices, copy);
  profile_.dram_copy_bytes_per_s = 2 * static_cast<double>(kCopySlice * kCopyPiece) / seconds;
  options_.on_figure(fmt::format("memory: reads {:.1f} GB/s, copies {:.1f} GB/s",
                                 profile_.dram_read_bytes_per_s / 1e9,
                                 profile_.dram_copy_bytes_per_s / 1e9));
}

void Calibration::measure_linear(TensorType type) {
  const std::string name(tensor_type_info(type).name);
  LinearTrial trial(*options_.kernels, type,
                    {.n_rows = options_.n_gemm_rows, .memory_bytes = options_.memory_bytes});
  STRATA_CHECK(trial.is_right(), "the %s kernel of %s is wrong", options_.kernels->name,
               name.c_str());
  const auto bytes = static_cast<double>(trial.matrix().total_bytes());
  LayerTrial layers(*options_.kernels, type, options_.memory_bytes);
  const double decode_s =
      clear_seconds(layers.n_layers(), [&](uint64_t layer) { layers.decode_layer(pool_, layer); });
  const double prefill_s = clear_seconds(1, [&](uint64_t) { trial.prefill(pool_); });
  const double pack_s =
      clear_seconds(trial.n_copies(), [&](uint64_t copy) { trial.pack_copy(pool_, copy); });
  profile_.linear.push_back({type, static_cast<double>(layers.layer_bytes()) / decode_s,
                             trial.prefill_flops() / prefill_s, bytes / pack_s});
  const planner::LinearRate& of = profile_.linear.back();
  options_.on_figure(fmt::format(
      "{} weights: one row {:.1f} GB/s, a prompt's rows {:.0f} GFLOP/s, packing {:.1f} GB/s", name,
      of.gemv_bytes_per_s / 1e9, of.gemm_flops / 1e9, of.pack_bytes_per_s / 1e9));
}

void Calibration::measure_attention(KvCodec codec, uint32_t head_dim) {
  const char* name = kv_codec_name(codec);
  STRATA_CHECK(AttendTrial(*options_.kernels, codec, head_dim, 1, kCheckedBytes).is_right(),
               "the %s attention kernel of %s x %u is wrong", options_.kernels->name, name,
               head_dim);
  WalkTrialShape shape{.head_dim = head_dim, .codec = codec};
  shape.n_held = WalkTrial::positions_of(shape, options_.memory_bytes);
  shape.n_tokens = std::max(options_.n_passes + 1, kAttendingRows);
  WalkTrial trial(shape, *options_.kernels, pool_.size(), options_.cancel);
  planner::AttendRate rate{.codec = codec, .head_dim = head_dim};
  measure_walked(trial, shape, rate);
  profile_.attend.push_back(rate);
  options_.on_figure(fmt::format(
      "attention over {} x {}: one token {:.0f} us a layer and {:.1f} GB/s, a prompt's {:.0f} "
      "GFLOP/s",
      name, head_dim, rate.decode_layer_us, rate.decode_bytes_per_s / 1e9,
      rate.prefill_flops / 1e9));
}

/// Of rows that lie beyond second-level caches: choosing computes more than it reads.
void Calibration::measure_index(const index::MethodName& of, uint32_t head_dim) {
  IndexTrial trial(*options_.kernels, of.method, head_dim, pool_,
                   std::min(kIndexBytes, options_.memory_bytes));
  const double seconds = clear_seconds(1, [&](uint64_t) { trial.scan(pool_); });
  profile_.index.push_back({of.name, head_dim, trial.scanned_bytes() / seconds});
  options_.on_figure(fmt::format("choosing by {} x {}: {:.1f} GB/s of its rows", of.name, head_dim,
                                 profile_.index.back().scan_bytes_per_s / 1e9));
}

/// What a layer and a step take at depth 0: of models that differ in their layers, a line through
/// the medians of all turns. Their weights, 50 KB a layer, come from the caches in half a
/// microsecond, which is counted as the layer's: at the rate of DRAM they would seem to take all.
void Calibration::measure_steps() {
  constexpr size_t kCounts = std::size(kLayerCounts);
  std::vector<std::unique_ptr<WalkTrial>> trials;
  for (const uint32_t n_layers : kLayerCounts)
    trials.push_back(std::make_unique<WalkTrial>(WalkTrialShape{.n_layers = n_layers,
                                                                .n_kv_heads = 1,
                                                                .n_held = kExtentPositions,
                                                                .n_tokens = kShortSteps + 1},
                                                 *options_.kernels, pool_.size(), options_.cancel));
  const auto token_s = [&](WalkTrial& trial) {
    const auto decode = [&](uint64_t token) {
      if (token == 0) trial.begin_at(1);  // of sixteen times one: it moves no tenth of them
      trial.decode();
    };
    return clear_seconds(kShortSteps, decode);
  };
  std::vector<double> of_count[kCounts], layer_us;
  for (uint32_t turn = 0; turn < kStepTurns; ++turn) {
    for (size_t i = 0; i < kCounts; ++i) {
      const size_t k = turn % 2 == 0 ? i : kCounts - 1 - i;
      of_count[k].push_back(token_s(*trials[k]));
    }
    layer_us.push_back((of_count[kCounts - 1].back() - of_count[0].back()) * 1e6 /
                       (kLayerCounts[kCounts - 1] - kLayerCounts[0]));
  }
  std::vector<planner::TimeSample> samples;
  for (size_t k = 0; k < kCounts; ++k)
    samples.push_back({static_cast<double>(kLayerCounts[k]), median(of_count[k])});
  const planner::RateCurve line = planner::fit_rate(samples);  // of layers in place of bytes
  profile_.step_cost.step_us = line.alpha_us;
  profile_.step_cost.layer_us = 1e6 / line.bytes_per_s;
  const auto [least, most] = std::ranges::minmax(layer_us);
  options_.on_figure(fmt::format(
      "a step: {:.0f} us and {:.1f} us a layer, beside its bytes ({:.1f} to {:.1f} in {} turns)",
      line.alpha_us, profile_.step_cost.layer_us, least, most, kStepTurns));
}

/// Of one layer: what attending takes one token at all beside step_cost, and the rate of K and V;
/// the rate of a prompt's rows, from what more positions before them take.
void Calibration::measure_walked(WalkTrial& trial, const WalkTrialShape& shape,
                                 planner::AttendRate& rate) {
  std::vector<planner::TimeSample> decoded, read;
  // The shortest says what a layer takes at all, the others are beyond any cache.
  for (const uint32_t n_positions :
       {shape.n_held, std::max(kExtentPositions, shape.n_held / 2), kExtentPositions}) {
    trial.begin_at(n_positions);
    const double token_s = clear_seconds(1, [&](uint64_t) { trial.decode(); });
    decoded.push_back({static_cast<double>(trial.kv_bytes(n_positions)), token_s});
    const double rows_s = clear_seconds(1, [&](uint64_t) {
      trial.begin_at(n_positions);
      trial.read(kAttendingRows, ReadWork::kAttention);
    });
    read.push_back({trial.attend_flop(n_positions, kAttendingRows), rows_s});
  }
  const planner::RateCurve curve = planner::fit_rate(decoded);
  const double other_us = profile_.step_cost.step_us + shape.n_layers * profile_.step_cost.layer_us;
  rate.decode_bytes_per_s = curve.bytes_per_s;
  rate.decode_layer_us = std::max(0.0, (curve.alpha_us - other_us) / shape.n_layers);
  rate.prefill_flops = planner::fit_rate(read).bytes_per_s;  // of operations in place of bytes
}

/// What a prompt's rows write beside products and attention: of two numbers of rows, so that what a
/// step takes at all is not in it.
void Calibration::measure_rows() {
  WalkTrial trial(kRowsShape, *options_.kernels, pool_.size(), options_.cancel);
  std::vector<planner::TimeSample> samples;
  for (const uint32_t n_rows : {kRowsShape.n_tokens, kRowsShape.n_tokens / 4}) {
    const double seconds = clear_seconds(1, [&](uint64_t) {
      trial.begin_at(1);
      trial.read(n_rows, ReadWork::kRows);
    });
    samples.push_back({trial.row_values(n_rows), seconds});
  }
  profile_.step_cost.row_values_per_s = planner::fit_rate(samples).bytes_per_s;
  options_.on_figure(fmt::format("a prompt's rows beside products and attention: {:.2f} G values/s",
                                 profile_.step_cost.row_values_per_s / 1e9));
}

/// The mean over pair_s, as the pass beside a disk is counted.
template <class Call>
double Calibration::passes_per_s(const Call& call) {
  uint64_t n_passes = 0;
  const auto start = Clock::now();
  do {
    call();
    ++n_passes;
  } while (seconds_since(start) < options_.pair_s);
  return static_cast<double>(n_passes) / seconds_since(start);
}

/// Bytes per second of reading in order for so long.
double Calibration::read_for(RawDisk& disk, double seconds) {
  double bytes = 0;
  const auto start = Clock::now();
  do {
    disk.read_all();
    bytes += static_cast<double>(disk.bytes());
  } while (seconds_since(start) < seconds);
  return bytes / seconds_since(start);
}

/// Both alone, then both at once, in turns: what drifts in between drifts for all three.
template <class Call>
void Calibration::measure_pair(RawDisk& disk, const std::string& name, const Call& compute) {
  std::vector<double> disk_shares, compute_shares;
  const auto begin = Clock::now();
  for (uint32_t turn = 0; turn < kPairTurns && (turn == 0 || seconds_since(begin) < kPairS);
       ++turn) {
    check_bench_cancelled(options_.cancel);
    const double disk_alone = read_for(disk, options_.pair_s);
    const double compute_alone = passes_per_s(compute);
    std::atomic<bool> stops = false;
    std::atomic<uint64_t> n_passes = 0;
    std::thread beside([&] {
      while (!stops.load()) {
        compute();
        ++n_passes;
      }
    });
    const auto start = Clock::now();
    const auto stop = [&] {
      stops = true;
      beside.join();
    };
    double disk_beside = 0;
    try {
      disk_beside = read_for(disk, options_.pair_s);
    } catch (...) {
      stop();
      throw;
    }
    stop();  // the last pass may end after the reads: one of many
    const double compute_beside = static_cast<double>(n_passes) / seconds_since(start);
    disk_shares.push_back(share_left(disk_beside, disk_alone));
    compute_shares.push_back(share_left(compute_beside, compute_alone));
  }
  profile_.pairs.push_back({"nvme_read", name, median(disk_shares), median(compute_shares)});
  options_.on_figure(fmt::format("reading the disk beside {}: {:.0f} % of its rate; {} {:.0f} %",
                                 name, 100 * median(disk_shares), name,
                                 100 * median(compute_shares)));
}

void Calibration::measure_pairs(RawDisk& disk) {
  if (static_cast<double>(disk.bytes()) > kPairPassS * profile_.disk_read_bytes_per_s) {
    options_.on_figure("reading the disk beside computing: not tried, the disk is too slow");
    return;
  }
  AttendTrial attend(*options_.kernels, KvCodec::kF16, options_.head_dims.front(), pool_.size(),
                     options_.memory_bytes);
  measure_pair(disk, "attend", [&] { attend.decode(pool_); });
  LinearTrial linear(*options_.kernels, options_.types.front(),
                     {.memory_bytes = options_.memory_bytes});
  measure_pair(disk, "gemv", [&] { linear.decode(pool_); });
}

}  // namespace

double share_left(double together, double alone) {
  constexpr double kLeast = 1e-3;  // a share of 0 would be a plan that never ends
  return std::clamp(together / alone, kLeast, 1.0);
}

uint32_t calibrate(const CalibrateOptions& options, ThreadPool& pool, MachineProfile& profile) {
  STRATA_CHECK(!options.types.empty() && !options.head_dims.empty(), "%zu types, %zu head_dims",
               options.types.size(), options.head_dims.size());
  Calibration calibration(options, pool, profile);
  // Before all that takes long: a folder that cannot be used is refused at once.
  std::optional<RawDisk> disk;
  if (!options.disk_folder.empty())
    disk.emplace(
        RawDisk::make(options.disk_folder, options.disk_bytes, options.io, options.cancel));
  calibration.measure_memory();
  for (const TensorType type : options.types) calibration.measure_linear(type);
  calibration.measure_steps();
  calibration.measure_rows();
  for (const uint32_t head_dim : options.head_dims)
    for (const KvCodec codec : {KvCodec::kF16, KvCodec::kQ8_0})
      if (codec == KvCodec::kF16 || head_dim % kActGroup == 0)
        calibration.measure_attention(codec, head_dim);
  for (const index::MethodName& of : index::method_names())
    for (const uint32_t head_dim : options.head_dims)
      if (is_index_measured(of.method, head_dim)) calibration.measure_index(of, head_dim);
  if (!disk) return calibration.n_disturbed;
  calibrate_disk(*disk, options, profile);
  calibration.measure_pairs(*disk);
  return calibration.n_disturbed;
}

}  // namespace strata::cli
