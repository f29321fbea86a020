// tools/cli/calibrate_kernels.cc - what a card's kernels give: products of one row and of a chunk's
// rows, attention of both, starts of kernels inside a graph. What they compute is judged elsewhere
// (tools/gpu_check.sh).
#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "base/checked_math.h"
#include "base/host_memory.h"
#include "cpu_attn/pack.h"
#include "gpu_attn/attend_splits.h"
#include "planner/rate_fit.h"
#include "planner/step_plan_builder.h"
#include "tools/cli/calibrate.h"
#include "tools/cli/sample_statistics.h"

namespace strata::cli {
namespace {

using engine::DeviceBuffer;

constexpr uint64_t kStagedBytes = uint64_t{16} << 20;
constexpr uint64_t kAligned = 256;
constexpr uint32_t kKernelPasses = 7;
constexpr uint32_t kLaunches = 64;
constexpr uint32_t kKvHeads = 8, kGroup = 4;
constexpr uint32_t kBlocksMost = 1 << 15;  // of a KV head

class CardTrial {
 public:
  /// The pool is more than the second cache holds: twice that.
  CardTrial(const engine::OpenDevice& device, const KernelTrialSizes& sizes)
      : device_(device),
        sizes_(sizes),
        pool_bytes_(std::clamp(2 * device.facts().l2_bytes, sizes.pool_min, sizes.pool_max)),
        pool_(DeviceBuffer::allocate(device, pool_bytes_, "weights to be timed")),
        staged_(HostMemory::reserve(kStagedBytes)),
        pinned_(engine::PinnedMemory::pin(device, {staged_.data(), staged_.size()})),
        stream_(engine::Stream::create(device)),
        begin_(engine::Event::create(device)),
        end_(engine::Event::create(device)) {
    // Any bytes are codes; halves below 2 are scales, K and V.
    std::mt19937 random(1);
    for (uint32_t& word : staged_.as<uint32_t>(kStagedBytes / sizeof(uint32_t)))
      word = static_cast<uint32_t>(random()) & 0xBFFF'BFFFu;
    for (uint64_t at = 0; at < pool_bytes_; at += kStagedBytes)
      stream_.copy(pool_.bytes() + at, staged_.data(), std::min(kStagedBytes, pool_bytes_ - at));
    stream_.wait();
  }

  double launch_us();
  double one_row_bytes_per_s(TensorType type);
  double many_rows_flops(TensorType type);
  double decode_bytes_per_s(const KvLayout& layout);
  double prefill_flops(const KvLayout& layout);

 private:
  /// Of one launch, where n of them run one after another in a graph; queue(i) queues one.
  template <class Queue>
  double seconds_of(uint64_t n, const Queue& queue) {
    queue(0);  // a card may load a kernel when it is first asked for, which no capture takes
    stream_.wait();
    stream_.begin_capture();
    for (uint64_t i = 0; i < n; ++i) queue(i);
    const engine::Graph graph = stream_.end_capture();
    std::vector<double> seconds;
    for (uint32_t pass = 0; pass <= kKernelPasses; ++pass) {
      stream_.record(begin_);
      stream_.run(graph);
      stream_.record(end_);
      stream_.wait();
      if (pass > 0) seconds.push_back(double{end_.ms_since(begin_)} * 1e-3);
    }
    return median(seconds) / static_cast<double>(n);
  }
  DeviceBuffer take(uint64_t bytes) {
    return DeviceBuffer::allocate(device_, round_up(bytes, kAligned), "rows to be timed");
  }
  /// Of a table of at most kStagedBytes.
  template <class T>
  DeviceBuffer upload(const std::vector<T>& values) {
    const uint64_t bytes = values.size() * sizeof(T);
    DeviceBuffer buffer = take(bytes);
    std::memcpy(staged_.data(), static_cast<const void*>(values.data()), bytes);
    stream_.copy(buffer.bytes(), staged_.data(), bytes);
    stream_.wait();
    return buffer;
  }
  /// Rows of sizes_.n_in values, which both kinds of products read.
  DeviceBuffer take_rows(uint32_t n_rows, DeviceLinearArgs& args) {
    const uint64_t n = uint64_t{n_rows} * sizes_.n_in;
    const uint64_t scales = n * 5, sums = scales + n / kActGroup * sizeof(float);
    DeviceBuffer rows = take(sums + n / kActHalfGroup * sizeof(int32_t));
    stream_.fill(rows.bytes(), 0, rows.size());
    stream_.wait();
    args.n_matrices = 1;
    args.n_rows = n_rows;
    args.x = rows.as<float>();
    args.quant = {rows.as<int8_t>(n * 4), rows.as<float>(scales), rows.as<int32_t>(sums)};
    return rows;
  }
  PackedMatrix matrix_of(TensorType type, uint32_t n_out) const {
    return {pool_.bytes(), type, n_out, sizes_.n_in, cpu_attn::panel_bytes(type, sizes_.n_in)};
  }
  uint32_t blocks_of_head(const KvLayout& layout) const {
    const uint64_t n = pool_bytes_ / layout.block_bytes / kKvHeads;
    return static_cast<uint32_t>(std::min<uint64_t>(n, kBlocksMost));
  }
  /// All blocks of the pool; those of a KV head lie together.
  DeviceBuffer upload_table(const KvLayout& layout) {
    std::vector<const std::byte*> table(uint64_t{blocks_of_head(layout)} * kKvHeads);
    for (uint64_t i = 0; i < table.size(); ++i) table[i] = pool_.bytes() + i * layout.block_bytes;
    return upload(table);
  }

  const engine::OpenDevice& device_;
  KernelTrialSizes sizes_;
  uint64_t pool_bytes_;
  DeviceBuffer pool_;
  HostMemory staged_;
  engine::PinnedMemory pinned_;
  engine::Stream stream_;
  engine::Event begin_, end_;
};

double CardTrial::launch_us() {
  constexpr uint32_t kWidth = 32;
  constexpr uint64_t kRowBytes = kWidth * sizeof(float);
  const DeviceBuffer rows = take(3 * kRowBytes);
  stream_.fill(rows.bytes(), 0, rows.size());
  DeviceNormArgs args{};
  args.residual = rows.as<float>();
  args.weight = rows.as<float>(kRowBytes);
  args.normed = rows.as<float>(2 * kRowBytes);
  args.n_rows = 1;
  args.n = kWidth;
  args.eps = 1e-5F;
  return 1e6 * seconds_of(kLaunches, [&](uint64_t) { stream_.run(&DeviceKernels::norm, args); });
}

double CardTrial::one_row_bytes_per_s(TensorType type) {
  std::vector<planner::TimeSample> samples;
  DeviceLinearArgs args{};
  const DeviceBuffer rows = take_rows(1, args);
  for (const uint32_t n_out : sizes_.n_out) {
    args.w[0] = matrix_of(type, n_out);
    const uint64_t bytes = args.w[0].total_bytes(), n_sets = pool_bytes_ / bytes;
    if (n_sets == 0) continue;
    const DeviceBuffer out = take(n_out * sizeof(float));
    args.out[0] = out.as<float>();
    const double seconds = seconds_of(n_sets, [&](uint64_t i) {
      args.w[0].bytes = pool_.bytes() + i * bytes;
      stream_.run(&DeviceKernels::linear, args);
    });
    samples.push_back({static_cast<double>(bytes), seconds});
  }
  return planner::fit_rate(samples).bytes_per_s;
}

double CardTrial::many_rows_flops(TensorType type) {
  const uint32_t n_rows = sizes_.n_rows, n_out = sizes_.n_out[1];
  DeviceLinearArgs args{};
  const DeviceBuffer rows = take_rows(n_rows, args);
  const DeviceBuffer out = take(uint64_t{n_rows} * n_out * sizeof(float));
  const DeviceBuffer scratch = take(device_linear_scratch_bytes(n_rows, sizes_.n_in, n_out));
  args.w[0] = matrix_of(type, n_out);
  args.out[0] = out.as<float>();
  args.scratch = scratch.bytes();
  const double seconds =
      seconds_of(1, [&](uint64_t) { stream_.run(&DeviceKernels::linear, args); });
  return 2.0 * n_rows * n_out * sizes_.n_in / seconds;
}

/// Of all blocks, and of their halves one after the other, so that no cache keeps them.
double CardTrial::decode_bytes_per_s(const KvLayout& layout) {
  const uint32_t n_all = blocks_of_head(layout);
  const DeviceBuffer table = upload_table(layout);
  const DeviceBuffer q = take(uint64_t{kKvHeads} * kGroup * layout.head_dim * sizeof(float));
  stream_.fill(q.bytes(), 0, q.size());
  DeviceAttendArgs args{};
  args.q = q.as<float>();
  args.block_stride = n_all;
  args.layout = layout;
  args.n_rows = 1;
  args.n_kv_heads = kKvHeads;
  args.group = kGroup;
  std::vector<planner::TimeSample> samples;
  for (const uint32_t n_sets : {1u, 2u}) {
    args.n_blocks = n_all / n_sets;
    const gpu_attn::AttendSplit split = gpu_attn::attend_split(args.n_blocks, kKvHeads, kGroup, 1,
                                                               device_.facts().n_multiprocessors);
    args.split_blocks = split.blocks;
    args.n_splits = split.n_splits;
    const DeviceBuffer position = upload(std::vector{args.n_blocks * kBlockPositions - 1});
    const uint64_t n_partials = uint64_t{args.n_splits} * kKvHeads * kGroup;
    const DeviceBuffer partials = take(n_partials * (layout.head_dim + 2) * sizeof(float));
    args.positions = position.as<uint32_t>();
    args.o = partials.as<float>();
    args.m = args.o + n_partials * layout.head_dim;
    args.l = args.m + n_partials;
    const double seconds = seconds_of(n_sets, [&](uint64_t i) {
      args.blocks = table.as<const std::byte*>() + i * args.n_blocks;
      stream_.run(&DeviceKernels::attend, args);
    });
    samples.push_back({static_cast<double>(gpu_attn::attend_bytes(args)), seconds});
  }
  return planner::fit_rate(samples).bytes_per_s;
}

double CardTrial::prefill_flops(const KvLayout& layout) {
  if (layout.head_dim > kDevicePrefillHeadDimMax) return 0;  // such rows are attended one by one
  const uint32_t n_rows = sizes_.n_rows;
  DevicePrefillArgs args{};
  args.n_blocks = blocks_of_head(layout);
  const uint32_t first_pos = args.n_blocks * kBlockPositions - n_rows;
  std::vector<uint32_t> rows(n_rows);
  std::iota(rows.begin(), rows.end(), first_pos);
  const DeviceBuffer table = upload_table(layout), positions = upload(rows);
  const uint64_t n_values = uint64_t{n_rows} * kKvHeads * kGroup * layout.head_dim;
  const DeviceBuffer q = take(n_values * sizeof(float)), out = take(n_values * sizeof(float));
  stream_.fill(q.bytes(), 0, q.size());
  args.n_splits = device_prefill_splits(n_rows, kKvHeads, kGroup, layout.head_dim, args.n_blocks,
                                        device_.facts().n_multiprocessors);
  const DeviceBuffer scratch =
      take(std::max(kAligned, device_prefill_scratch_bytes(args.n_splits, n_rows, kKvHeads, kGroup,
                                                           layout.head_dim)));
  args.q = q.as<float>();
  args.positions = positions.as<uint32_t>();
  args.blocks = table.as<const std::byte*>();
  args.block_stride = args.n_blocks;
  args.layout = layout;
  args.n_rows = n_rows;
  args.n_kv_heads = kKvHeads;
  args.group = kGroup;
  args.out = out.as<float>();
  args.scratch = scratch.bytes();
  const double seconds =
      seconds_of(1, [&](uint64_t) { stream_.run(&DeviceKernels::prefill, args); });
  const auto n_attended = static_cast<double>(planner::attended_positions({first_pos, n_rows}, 0));
  return 4 * n_attended * kKvHeads * kGroup * layout.head_dim / seconds;
}

}  // namespace

void calibrate_kernels(const engine::OpenDevice& device, const std::vector<TensorType>& types,
                       uint32_t head_dim, planner::DeviceRates& rates,
                       const KernelTrialSizes& sizes) {
  CardTrial trial(device, sizes);
  planner::DeviceRates found = rates;
  found.gemv_bytes_per_s = found.gemm_flops = 0;
  found.launch_us = trial.launch_us();
  const auto keep_least = [](double& least, double rate) {
    if (rate > 0 && (least == 0 || rate < least)) least = rate;  // 0: it was not measured
  };
  for (const TensorType type : types) {
    keep_least(found.gemv_bytes_per_s, trial.one_row_bytes_per_s(type));
    keep_least(found.gemm_flops, trial.many_rows_flops(type));
  }
  const KvLayout layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, head_dim);
  found.attend_bytes_per_s = trial.decode_bytes_per_s(layout);
  found.attend_flops = trial.prefill_flops(layout);
  rates = found;
}

}  // namespace strata::cli
