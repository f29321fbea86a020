// Decode attention and the merging of its partials: shapes of an 8B model, of a small one, and of
// one without groups, from device memory as a share of a copy, and from pinned host memory as a
// share of the link. A query of each shape is judged by double precision before it is timed.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "base/checked_math.h"
#include "base/half.h"
#include "base/host_memory.h"
#include "gpu_attn/attend_splits.h"
#include "tools/gpu/gpu_bench.h"

namespace strata::gpu_bench {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kPoolBytes = 576 * kMiB;  // of blocks: the largest shape's
constexpr uint64_t kSmallPoolBytes = 8 * kMiB;
constexpr uint64_t kHostPoolBytes = 256 * kMiB;

struct Shape {
  const char* model;
  uint32_t n_kv_heads;
  uint32_t group;
  uint32_t head_dim;
  KvCodec codec;
  uint32_t n_positions;
  uint32_t n_rows = 1;

  uint32_t n_blocks() const { return static_cast<uint32_t>(div_up(n_positions, kBlockPositions)); }
  KvLayout layout() const { return KvLayout::make(codec, codec, head_dim); }
  uint64_t set_bytes() const { return uint64_t{n_blocks()} * n_kv_heads * layout().block_bytes; }
  uint64_t n_queries() const { return uint64_t{n_kv_heads} * group * n_rows; }
  std::string name() const {
    return std::string(model) + " " + kv_codec_name(codec) + " " +
           std::to_string(n_positions / 1024) + "K" +
           (n_rows == 1 ? "" : " " + std::to_string(n_rows) + " rows");
  }
};

template <class T>
T* upload(GpuBench& bench, const std::vector<T>& values) {
  auto* memory = static_cast<T*>(bench.make(values.size() * sizeof(T)));
  bench.check(bench.table().copy(bench.stream(), memory, values.data(), values.size() * sizeof(T)));
  bench.check(bench.table().wait_stream(bench.stream()));
  return memory;
}

template <class T>
std::vector<T> download(GpuBench& bench, const T* from, uint64_t n) {
  std::vector<T> values(n);
  bench.check(bench.table().copy(bench.stream(), values.data(), from, n * sizeof(T)));
  bench.check(bench.table().wait_stream(bench.stream()));
  return values;
}

/// Tables of as many sets as the pool holds. Blocks of a stream lie together by extents, those of
/// the heads in turn.
struct Tables {
  const std::byte* const* first;
  uint64_t set_entries;
  uint32_t n_sets;

  const std::byte* const* set(uint32_t i) const { return first + i % n_sets * set_entries; }
};

Tables make_tables(GpuBench& bench, const Shape& shape, const std::byte* pool,
                   uint64_t pool_bytes) {
  const uint64_t block_bytes = shape.layout().block_bytes;
  const uint64_t entries = uint64_t{shape.n_blocks()} * shape.n_kv_heads;
  const auto n_sets = static_cast<uint32_t>(pool_bytes / shape.set_bytes());
  if (n_sets == 0) throw std::runtime_error(shape.name() + ": larger than the pool");
  std::vector<const std::byte*> table(entries * n_sets);
  for (uint32_t set = 0; set < n_sets; ++set) {
    for (uint32_t head = 0; head < shape.n_kv_heads; ++head) {
      for (uint32_t block = 0; block < shape.n_blocks(); ++block) {
        const uint64_t extent = block / kExtentBlocks;
        const uint64_t in_extent =
            std::min<uint64_t>(kExtentBlocks, shape.n_blocks() - extent * kExtentBlocks);
        const uint64_t place =
            extent * kExtentBlocks * shape.n_kv_heads + head * in_extent + block % kExtentBlocks;
        table[set * entries + uint64_t{head} * shape.n_blocks() + block] =
            pool + (set * entries + place) * block_bytes;
      }
    }
  }
  return {upload(bench, table), entries, n_sets};
}

float* make_floats(GpuBench& bench, uint64_t n) {
  return static_cast<float*>(bench.make(n * sizeof(float)));
}

DeviceAttendArgs attend_args(GpuBench& bench, const Shape& shape, const Tables& tables) {
  std::vector<uint32_t> positions;
  for (uint32_t row = 0; row < shape.n_rows; ++row)
    positions.push_back(shape.n_positions - shape.n_rows + row);
  const gpu_attn::AttendSplit split =
      gpu_attn::attend_split(shape.n_blocks(), shape.n_kv_heads, shape.group, shape.n_rows,
                             bench.facts().n_multiprocessors);
  // Outputs for the smallest splits, so that others can be tried.
  const uint64_t n_partials =
      shape.n_queries() * div_up(shape.n_blocks(), gpu_attn::kAttendSplitGrain);
  // Below 2 as they come; K is too, and sums of 128 such products spread far enough.
  const auto* q = static_cast<const float*>(
      bench.random_bytes(shape.n_queries() * shape.head_dim * sizeof(float), 7));
  return {.q = q,
          .positions = upload(bench, positions),
          .blocks = tables.set(0),
          .block_stride = shape.n_blocks(),
          .first_block = 0,
          .n_blocks = shape.n_blocks(),
          .layout = shape.layout(),
          .n_rows = shape.n_rows,
          .n_kv_heads = shape.n_kv_heads,
          .group = shape.group,
          .window = 0,
          .split_blocks = split.blocks,
          .n_splits = split.n_splits,
          .o = make_floats(bench, n_partials * shape.head_dim),
          .m = make_floats(bench, n_partials),
          .l = make_floats(bench, n_partials)};
}

DeviceMergeArgs merge_args(GpuBench& bench, const DeviceAttendArgs& args) {
  const uint64_t n_out =
      uint64_t{args.n_rows} * args.n_kv_heads * args.group * args.layout.head_dim;
  const QuantRows quant{static_cast<int8_t*>(bench.make(n_out)),
                        make_floats(bench, n_out / kActGroup),
                        static_cast<int32_t*>(bench.make(n_out / kActHalfGroup * 4))};
  return {.o = args.o,
          .m = args.m,
          .l = args.l,
          .out = make_floats(bench, n_out),
          .quant = quant,
          .n_splits = args.n_splits,
          .n_rows = args.n_rows,
          .n_kv_heads = args.n_kv_heads,
          .group = args.group,
          .head_dim = args.layout.head_dim};
}

/// A number of a part of a block: its scale times what is stored.
double number(KvCodec codec, const std::byte* part, const std::byte* scales, uint64_t i,
              uint32_t dim, uint32_t row) {
  uint16_t half;
  if (codec == KvCodec::kF16) {
    std::memcpy(&half, part + i * 2, 2);
    return f16_to_f32(half);
  }
  std::memcpy(&half, scales + (dim / 32 * kBlockPositions + row) * 2, 2);
  return static_cast<int8_t>(part[i]) * double{f16_to_f32(half)};
}

/// The attention of the last query of row 0 over the blocks of its head, in double.
std::vector<double> attend_last_head(GpuBench& bench, const Shape& shape,
                                     const DeviceAttendArgs& args) {
  const KvLayout layout = shape.layout();
  const uint32_t head_dim = shape.head_dim;
  const uint32_t head = shape.n_kv_heads - 1;
  const uint64_t query = uint64_t{head} * shape.n_rows * shape.group + shape.group - 1;
  const auto q = download(bench, args.q + query * head_dim, head_dim);
  const auto table = download(bench, args.blocks + head * args.block_stride, shape.n_blocks());
  const uint32_t n_positions = shape.n_positions - shape.n_rows + 1;
  std::vector<std::vector<std::byte>> blocks;
  for (const std::byte* block : table) blocks.push_back(download(bench, block, layout.block_bytes));
  std::vector<double> scores(n_positions), out(head_dim);
  for (uint32_t p = 0; p < n_positions; ++p) {
    const std::byte* block = blocks[p / kBlockPositions].data();
    const uint32_t row = p % kBlockPositions;
    for (uint32_t d = 0; d < head_dim; ++d)
      scores[p] += double{q[d]} * number(layout.k_codec, block, block + layout.k_scales_offset,
                                         uint64_t{d} * kBlockPositions + row, d, row);
  }
  const double top = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (uint32_t p = 0; p < n_positions; ++p) {
    const double weight = std::exp(scores[p] - top);
    const std::byte* block = blocks[p / kBlockPositions].data();
    const uint32_t row = p % kBlockPositions;
    sum += weight;
    if (weight < 1e-12) continue;
    for (uint32_t d = 0; d < head_dim; ++d)
      out[d] +=
          weight * number(layout.v_codec, block + layout.v_offset, block + layout.v_scales_offset,
                          uint64_t{row} * head_dim + d, d, row);
  }
  for (double& value : out) value /= sum;
  return out;
}

void check_answer(GpuBench& bench, const Shape& shape, const DeviceAttendArgs& args,
                  const DeviceMergeArgs& merging) {
  bench.check(bench.table().kernels.attend(bench.stream(), args));
  bench.check(bench.table().kernels.merge(bench.stream(), merging));
  const std::vector<double> wanted = attend_last_head(bench, shape, args);
  const uint64_t at = (uint64_t{shape.n_kv_heads} * shape.group - 1) * shape.head_dim;
  const auto got = download(bench, merging.out + at, shape.head_dim);
  double largest = 0;
  for (const double value : wanted) largest = std::max(largest, std::abs(value));
  for (uint32_t d = 0; d < shape.head_dim; ++d)
    if (!(std::abs(double{got[d]} - wanted[d]) <= 1e-3 * largest))
      throw std::runtime_error("attend " + shape.name() + ": dimension " + std::to_string(d) +
                               " is wrong");
}

BenchRow time_attend(GpuBench& bench, const std::string& name, DeviceAttendArgs args,
                     const Tables& tables, const char* ceiling) {
  BenchRow row = bench.time(name, [&](uint32_t i) {
    args.blocks = tables.set(i);
    bench.check(bench.table().kernels.attend(bench.stream(), args));
  });
  row.bytes = gpu_attn::attend_bytes(args);
  row.ceiling = ceiling;
  row.note = std::to_string(args.n_splits) + " splits of " + std::to_string(args.split_blocks);
  return row;
}

/// The same launch cut for 1 to 8 thread blocks per multiprocessor.
void bench_splits(GpuBench& bench, const Shape& shape, DeviceAttendArgs args,
                  const Tables& tables) {
  for (const uint32_t n : {1u, 2u, 3u, 4u, 6u, 8u}) {
    const uint64_t n_wanted = uint64_t{n} * bench.facts().n_multiprocessors / shape.n_kv_heads;
    args.split_blocks = static_cast<uint32_t>(
        round_up(div_up(shape.n_blocks(), std::max<uint64_t>(n_wanted, 1)), 8));
    args.n_splits = static_cast<uint32_t>(div_up(shape.n_blocks(), args.split_blocks));
    bench.add(time_attend(bench, "attend " + shape.name() + " cut for " + std::to_string(n), args,
                          tables, "copy"));
  }
}

void bench_shape(GpuBench& bench, const Shape& shape, const std::byte* pool, uint64_t pool_bytes) {
  const Tables tables = make_tables(bench, shape, pool, pool_bytes);
  const DeviceAttendArgs args = attend_args(bench, shape, tables);
  const DeviceMergeArgs merging = merge_args(bench, args);
  check_answer(bench, shape, args, merging);
  bench.add(time_attend(bench, "attend " + shape.name(), args, tables, "copy"));
  BenchRow row = bench.time("merge " + shape.name(), [&](uint32_t) {
    bench.check(bench.table().kernels.merge(bench.stream(), merging));
  });
  row.bytes = gpu_attn::merge_bytes(merging);
  row.ceiling = "copy";
  row.note = "partials in the cache";
  bench.add(row);
  if (shape.n_positions == 32 * 1024 && shape.group == 4 && shape.n_rows == 1)
    bench_splits(bench, shape, args, tables);
}

/// Blocks that stay in pinned host memory.
void bench_zero_copy(GpuBench& bench, const Shape& shape) {
  const uint64_t pool_bytes = bench.is_small() ? kSmallPoolBytes : kHostPoolBytes;
  const HostMemory memory = HostMemory::reserve(pool_bytes);
  const auto words = memory.as<uint32_t>(memory.size() / sizeof(uint32_t));
  for (uint32_t i = 0; uint32_t & word : words) word = i++ * 2654435761u & 0xBFFFBFFFu;
  void* mapped = nullptr;
  bench.check(bench.table().pin(bench.device(), memory.data(), memory.size(), &mapped));
  const Tables tables =
      make_tables(bench, shape, static_cast<const std::byte*>(mapped), pool_bytes);
  const DeviceAttendArgs args = attend_args(bench, shape, tables);
  check_answer(bench, shape, args, merge_args(bench, args));
  bench.add(time_attend(bench, "attend " + shape.name() + " in host memory", args, tables, "link"));
  bench.check(bench.table().wait_stream(bench.stream()));
  bench.check(bench.table().unpin(bench.device(), memory.data()));
}

}  // namespace

void bench_attend(GpuBench& bench) {
  constexpr KvCodec kF16 = KvCodec::kF16;
  constexpr KvCodec kQ8 = KvCodec::kQ8_0;
  const uint64_t pool_bytes = bench.is_small() ? kSmallPoolBytes : kPoolBytes;
  const auto* pool = static_cast<const std::byte*>(bench.random_bytes(pool_bytes, 3));
  if (bench.is_small()) {
    bench_shape(bench, {"small", 2, 4, 64, kF16, 1024}, pool, pool_bytes);
    bench_zero_copy(bench, {"small", 2, 4, 64, kQ8, 1024});
    return;
  }
  for (const KvCodec codec : {kF16, kQ8}) {
    for (const uint32_t k : {8u, 32u, 128u})
      bench_shape(bench, {"8x4 d128", 8, 4, 128, codec, k * 1024}, pool, pool_bytes);
    for (const uint32_t k : {32u, 128u})
      bench_shape(bench, {"3x3 d64", 3, 3, 64, codec, k * 1024}, pool, pool_bytes);
    bench_shape(bench, {"32x1 d128", 32, 1, 128, codec, 32 * 1024}, pool, pool_bytes);
    bench_shape(bench, {"8x4 d128", 8, 4, 128, codec, 32 * 1024, 4}, pool, pool_bytes);
    bench_shape(bench, {"4x2 d256", 4, 2, 256, codec, 32 * 1024}, pool, pool_bytes);
    bench_zero_copy(bench, {"8x4 d128", 8, 4, 128, codec, 8 * 1024});
  }
}

}  // namespace strata::gpu_bench
