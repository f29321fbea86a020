#include "planner/virtual/kernel_cost.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/index_kernels.h"
#include "planner/step_plan_builder.h"
#include "planner/virtual/first_fit_arena.h"

namespace strata::planner {
namespace {

template <class T>
ByteRange range_of(const T* begin, uint64_t bytes) {
  return {std::bit_cast<uint64_t>(begin), bytes};
}

/// Adds a range of which `moved` bytes are read or written; nothing for a null pointer.
template <class T>
void add(std::vector<TouchedRange>& ranges, const T* begin, uint64_t bytes, uint64_t moved) {
  if (begin != nullptr && bytes > 0) ranges.push_back({range_of(begin, bytes), moved});
}
template <class T>
void add(std::vector<TouchedRange>& ranges, const T* begin, uint64_t bytes) {
  add(ranges, begin, bytes, bytes);
}

/// Adds a block of K and V. Neighbours become one range, but not across a multiple of the arena's
/// granule, where another place may begin.
void add_block(std::vector<TouchedRange>& ranges, const std::byte* block, uint64_t bytes,
               uint64_t moved) {
  const uint64_t begin = range_of(block, bytes).begin;
  const bool goes_on = !ranges.empty() && ranges.back().range.end() == begin;
  if (!goes_on || begin % FirstFitArena::kGranule == 0) return add(ranges, block, bytes, moved);
  ranges.back().range.bytes += bytes;
  ranges.back().moved_bytes += moved;
}

/// The int8 form of n_values in whole groups.
void add_quant(std::vector<TouchedRange>& ranges, const QuantRows& quant, uint64_t n_values) {
  if (quant.q == nullptr) return;
  add(ranges, quant.q, n_values);
  add(ranges, quant.scales, n_values / kActGroup * sizeof(float));
  add(ranges, quant.neg_sums, n_values / kActHalfGroup * sizeof(int32_t));
}

bool is_quantised(TensorType type) {
  return type != TensorType::kF32 && type != TensorType::kF16 && type != TensorType::kBF16;
}

/// Entries of a table that attention reads, from its beginning.
struct Attended {
  SequenceRows rows;
  uint64_t begin = 0, end = 0;
};

/// The rows of a KV head, as its table counts them.
SequenceRows rows_of_head(const DeviceAttendArgs& args, uint64_t head) {
  return {.first_pos = args.positions[head * args.position_stride], .n_rows = args.n_rows};
}
SequenceRows rows_of_head(const DevicePrefillArgs& args, uint64_t) {
  return {.first_pos = args.positions[0], .n_rows = args.n_rows};
}

/// What the positions of all KV heads take.
ByteRange position_range(const DeviceAttendArgs& args) {
  const uint64_t last_head = args.n_kv_heads > 0 ? args.n_kv_heads - 1 : 0;
  return range_of(args.positions,
                  (last_head * args.position_stride + args.n_rows) * sizeof(uint32_t));
}
ByteRange position_range(const DevicePrefillArgs& args) {
  return range_of(args.positions, args.n_rows * sizeof(uint32_t));
}

template <class Args>
Attended attended_by(const Args& args, uint64_t head) {
  Attended attended{.rows = rows_of_head(args, head)};
  const uint64_t last = uint64_t{attended.rows.first_pos} + args.n_rows - 1;
  const uint64_t first = last + 1 - read_positions(attended.rows, args.window);
  const uint64_t table_end = uint64_t{args.first_block} + args.n_blocks;
  const uint64_t end = std::min(last / kBlockPositions + 1, table_end);
  const uint64_t begin = std::max<uint64_t>(first / kBlockPositions, args.first_block);
  attended.begin =
      std::min(begin, end) - std::min<uint64_t>(args.first_block, std::min(begin, end));
  attended.end = end - std::min<uint64_t>(args.first_block, end);
  return attended;
}

/// The positions, then the entries that they say.
template <class Args>
std::vector<ByteRange> attention_tables(const Args& args, uint32_t stage) {
  if (args.n_rows == 0 || stage > 1) return {};
  if (stage == 0) return {position_range(args)};
  std::vector<ByteRange> tables;
  tables.reserve(args.n_kv_heads);
  for (uint64_t head = 0; head < args.n_kv_heads; ++head) {
    const Attended attended = attended_by(args, head);
    tables.push_back(range_of(args.blocks + head * args.block_stride + attended.begin,
                              (attended.end - attended.begin) * sizeof(std::byte*)));
  }
  return tables;
}

/// What attention over a table reads of it, and the flop: 4 per query head, dimension and attended
/// position.
template <class Args>
void add_attention(KernelCost& cost, const Args& args) {
  add(cost.reads, args.q,
      uint64_t{args.n_rows} * args.n_kv_heads * args.group * args.layout.head_dim * sizeof(float));
  if (args.n_rows == 0) return;
  const ByteRange positions = position_range(args);
  cost.reads.push_back({positions, positions.bytes});
  uint64_t n_attended = 0;  // positions, of all KV heads
  for (uint64_t head = 0; head < args.n_kv_heads; ++head) {
    const Attended attended = attended_by(args, head);
    n_attended += attended_positions(attended.rows, args.window);
    add(cost.reads, args.blocks + head * args.block_stride + attended.begin,
        (attended.end - attended.begin) * sizeof(std::byte*));
    const std::byte* const* table = args.blocks + head * args.block_stride;
    for (uint64_t i = attended.begin; i < attended.end; ++i)
      add_block(cost.reads, table[i], args.layout.block_bytes, args.layout.block_bytes);
  }
  cost.flop = 4 * n_attended * args.group * args.layout.head_dim;
}

}  // namespace

uint64_t KernelCost::bytes() const {
  uint64_t sum = 0;
  for (const auto* ranges : {&reads, &writes})
    for (const TouchedRange& touched : *ranges) sum += touched.moved_bytes;
  return sum;
}

KernelCost kernel_cost(const DeviceEmbedArgs& args) {
  KernelCost cost{.name = "embed"};
  const uint64_t n = uint64_t{args.n_rows} * args.matrix.n_in;
  add(cost.reads, args.tokens, args.n_rows * sizeof(int32_t));
  add(cost.reads, args.matrix.bytes, args.matrix.total_bytes(),
      args.n_rows * tensor_row_bytes(args.matrix.type, args.matrix.n_in));
  add(cost.writes, args.out, n * sizeof(float));
  cost.flop = n;
  return cost;
}

KernelCost kernel_cost(const DeviceNormArgs& args) {
  KernelCost cost{.name = "norm"};
  const uint64_t n = uint64_t{args.n_rows} * args.n;
  add(cost.reads, args.residual, n * sizeof(float));
  add(cost.reads, args.projected, n * sizeof(float));
  add(cost.reads, args.bias, args.n * sizeof(float));
  add(cost.reads, args.post_norm, args.n * sizeof(float));
  add(cost.reads, args.weight, args.n * sizeof(float));
  if (args.projected != nullptr) add(cost.writes, args.residual, n * sizeof(float));
  add(cost.writes, args.normed, n * sizeof(float));
  add_quant(cost.writes, args.quant, n);
  cost.flop = 4 * n + (args.projected != nullptr ? n : 0);
  return cost;
}

KernelCost kernel_cost(const DeviceQuantizeArgs& args) {
  KernelCost cost{.name = "quantize"};
  const uint64_t n = uint64_t{args.n_rows} * args.n;
  add(cost.reads, args.x, n * sizeof(float));
  add_quant(cost.writes, args.out, n);
  cost.flop = 2 * n;
  return cost;
}

KernelCost kernel_cost(const DeviceLinearArgs& args) {
  KernelCost cost{.name = "linear"};
  STRATA_CHECK(args.n_matrices > 0 && args.n_matrices <= kDeviceLinearMax, "n_matrices=%u",
               args.n_matrices);
  const bool has_few_rows = args.n_rows <= kDeviceFewRows;
  bool any_quantised = false;
  bool any_float = false;
  uint32_t widest = 0;
  uint64_t in_f16 = 0;
  const uint64_t n_in = args.w[0].n_in;
  for (uint32_t i = 0; i < args.n_matrices; ++i) {
    const PackedMatrix& w = args.w[i];
    (is_quantised(w.type) ? any_quantised : any_float) = true;
    widest = std::max(widest, w.n_out);
    in_f16 += uint64_t{w.n_out} * n_in * 2;
    add(cost.reads, w.bytes, w.total_bytes());
    add(cost.writes, args.out[i], uint64_t{args.n_rows} * w.n_out * sizeof(float));
    cost.flop += 2 * uint64_t{args.n_rows} * w.n_out * n_in;
  }
  const uint64_t n = args.n_rows * n_in;
  if (!has_few_rows) {
    cost.unit = FlopUnit::kF16Tensor;
    add(cost.reads, args.x, n * sizeof(float));
    add(cost.writes, args.scratch,
        device_linear_scratch_bytes(args.n_rows, static_cast<uint32_t>(n_in), widest),
        2 * (n * 2 + in_f16));
    return cost;
  }
  cost.unit = any_float ? FlopUnit::kF32 : FlopUnit::kInt8;
  cost.is_gemv = true;
  if (any_float) add(cost.reads, args.x, n * sizeof(float));
  if (any_quantised) add_quant(cost.reads, args.quant, n);
  return cost;
}

KernelCost kernel_cost(const DeviceRotateArgs& args) {
  KernelCost cost{.name = "rotate"};
  const uint64_t head_dim = args.layout.head_dim;
  const uint64_t kv_width = args.n_kv_heads * head_dim;
  const uint64_t q_width = kv_width * args.group;
  const uint64_t n_rows = args.n_rows;
  add(cost.reads, args.q, n_rows * q_width * sizeof(float));
  add(cost.reads, args.k, n_rows * kv_width * sizeof(float));
  add(cost.reads, args.v, n_rows * kv_width * sizeof(float));
  add(cost.reads, args.q_bias, q_width * sizeof(float));
  add(cost.reads, args.k_bias, kv_width * sizeof(float));
  add(cost.reads, args.v_bias, kv_width * sizeof(float));
  add(cost.reads, args.q_norm, head_dim * sizeof(float));
  add(cost.reads, args.k_norm, head_dim * sizeof(float));
  add(cost.reads, args.cos_sin, n_rows * args.n_rot * sizeof(float));
  add(cost.reads, args.positions, n_rows * sizeof(uint32_t));
  add(cost.writes, args.q_out, n_rows * q_width * sizeof(float));
  cost.flop = 6 * n_rows * (q_width + kv_width);
  for (const ByteRange& entries : tables_of(args, 1))
    cost.reads.push_back({entries, entries.bytes});
  const uint64_t row_bytes = kv_position_bytes(args.layout);
  for (uint64_t head = 0; head < args.n_kv_heads; ++head) {
    for (uint64_t row = 0; row < n_rows;) {
      const uint64_t block = args.positions[row] / kBlockPositions;
      uint64_t end = row + 1;
      while (end < n_rows && args.positions[end] / kBlockPositions == block) ++end;
      const uint64_t at = head * args.block_stride + block - args.first_block;
      for (std::byte* const* table : {args.blocks, args.mirror}) {
        if (table == nullptr) continue;
        add_block(cost.reads, table[at], args.layout.block_bytes, 0);  // the other rows stay
        add_block(cost.writes, table[at], args.layout.block_bytes, (end - row) * row_bytes);
      }
      row = end;
    }
  }
  return cost;
}

KernelCost kernel_cost(const DeviceAttendArgs& args) {
  KernelCost cost{.name = "attend"};
  add_attention(cost, args);
  const uint64_t n =
      uint64_t{args.n_splits} * args.n_kv_heads * args.n_rows * args.group * sizeof(float);
  add(cost.writes, args.o, n * args.layout.head_dim);
  add(cost.writes, args.m, n);
  add(cost.writes, args.l, n);
  return cost;
}

KernelCost kernel_cost(const DevicePrefillArgs& args) {
  KernelCost cost{.name = "prefill", .unit = FlopUnit::kAttendTensor};
  add_attention(cost, args);
  const uint64_t n = uint64_t{args.n_rows} * args.n_kv_heads * args.group * args.layout.head_dim;
  add(cost.writes, args.out, n * sizeof(float));
  add_quant(cost.writes, args.quant, n);
  const uint64_t scratch_bytes = device_prefill_scratch_bytes(
      args.n_splits, args.n_rows, args.n_kv_heads, args.group, args.layout.head_dim);
  add(cost.writes, args.scratch, scratch_bytes, 2 * scratch_bytes);  // and read again
  return cost;
}

KernelCost kernel_cost(const DeviceMergeArgs& args) {
  KernelCost cost{.name = "merge"};
  const uint64_t n_queries = uint64_t{args.n_rows} * args.n_kv_heads * args.group;
  const uint64_t n_partials = n_queries * args.n_splits;
  add(cost.reads, args.o, n_partials * args.head_dim * sizeof(float));
  add(cost.reads, args.m, n_partials * sizeof(float));
  add(cost.reads, args.l, n_partials * sizeof(float));
  add(cost.writes, args.out, n_queries * args.head_dim * sizeof(float));
  add_quant(cost.writes, args.quant, n_queries * args.head_dim);
  cost.flop = 2 * n_partials * args.head_dim;
  return cost;
}

KernelCost kernel_cost(const DeviceActivateArgs& args) {
  KernelCost cost{.name = "activate"};
  const uint64_t n = uint64_t{args.n_rows} * args.n;
  add(cost.reads, args.gate, n * sizeof(float));
  add(cost.reads, args.up, n * sizeof(float));
  add(cost.writes, args.out, n * sizeof(float));
  add_quant(cost.writes, args.quant, n);
  cost.flop = 8 * n;
  return cost;
}

KernelCost kernel_cost(const DeviceArgmaxArgs& args) {
  KernelCost cost{.name = "argmax"};
  const uint64_t n = uint64_t{args.n_rows} * args.n;
  add(cost.reads, args.x, n * sizeof(float));
  add(cost.writes, args.value, args.n_rows * sizeof(float));
  add(cost.writes, args.index, args.n_rows * sizeof(int32_t));
  cost.flop = n;
  return cost;
}

KernelCost kernel_cost(const DeviceCopyBlocksArgs& args) {
  KernelCost cost{.name = "copy_blocks"};
  for (uint32_t i = 0; i < args.n_blocks; ++i) {
    add_block(cost.reads, args.from[i], args.block_bytes, args.block_bytes);
    add_block(cost.writes, args.to[i], args.block_bytes, args.block_bytes);
  }
  return cost;
}

KernelCost kernel_cost(const DeviceSetWordsArgs& args) {
  KernelCost cost{.name = "set_words"};
  for (uint32_t i = 0; i < args.n; ++i)
    add(cost.writes, args.words + args.index[i], sizeof(uint64_t));
  add(cost.reads, args.value, args.n * sizeof(uint64_t));
  return cost;
}

KernelCost kernel_cost(const DeviceScanArgs& args) {
  // The tensor cores multiply bytes at the rate of f16 at least; no card has timed this kernel.
  KernelCost cost{.name = "scan_codes", .unit = FlopUnit::kF16Tensor};
  if (args.n_queries == 0 || args.n_tiles == 0) return cost;
  const uint64_t n_queries = uint64_t{args.n_kv_heads} * args.n_queries;
  const uint64_t tile_bytes = rabitq_tile_bytes(args.head_dim);
  add(cost.reads, args.q, n_queries * args.head_dim * sizeof(float));
  for (const ByteRange& entries : tables_of(args, 0))
    cost.reads.push_back({entries, entries.bytes});
  for (uint64_t head = 0; head < args.n_kv_heads; ++head)
    for (uint64_t i = 0; i < args.n_tiles; ++i)
      add_block(cost.reads, args.tiles[head * args.tile_stride + i], tile_bytes, tile_bytes);
  for (uint64_t query = 0; query < n_queries; ++query)
    add(cost.writes, args.block_scores + query * args.score_stride,
        uint64_t{args.n_tiles} * kExtentBlocks * sizeof(float));
  // Columns, dimensions and groups that are zeros are multiplied too.
  const uint64_t pass = device_scan_pass(args.head_dim, args.n_queries);
  const uint64_t n_passes = (args.n_queries + pass - 1) / pass;
  const uint64_t n_columns = n_passes * pass / device_scan_tile(args.head_dim) * kDeviceScanColumns;
  const uint64_t n_rows = uint64_t{args.n_tiles} * (kExtentPositions + kExtentBlocks);
  cost.flop = uint64_t{2} * args.n_kv_heads * n_columns * n_rows * device_scan_dims(args.head_dim);
  return cost;
}

std::vector<ByteRange> tables_of(const DeviceCopyBlocksArgs& args, uint32_t stage) {
  if (stage > 0) return {};
  return {range_of(args.from, args.n_blocks * sizeof(std::byte*)),
          range_of(args.to, args.n_blocks * sizeof(std::byte*))};
}
std::vector<ByteRange> tables_of(const DeviceSetWordsArgs& args, uint32_t stage) {
  if (stage > 0) return {};
  return {range_of(args.index, args.n * sizeof(uint32_t))};
}
std::vector<ByteRange> tables_of(const DeviceScanArgs& args, uint32_t stage) {
  if (stage > 0) return {};
  std::vector<ByteRange> tables;
  const bool reads = args.n_queries > 0 && args.n_tiles > 0;
  for (uint64_t head = 0; head < args.n_kv_heads && reads; ++head)
    tables.push_back(
        range_of(args.tiles + head * args.tile_stride, args.n_tiles * sizeof(std::byte*)));
  return tables;
}
std::vector<ByteRange> tables_of(const DeviceRotateArgs& args, uint32_t stage) {
  if (args.n_rows == 0 || stage > 1) return {};
  if (stage == 0) return {range_of(args.positions, args.n_rows * sizeof(uint32_t))};
  const auto [least, most] = std::minmax_element(args.positions, args.positions + args.n_rows);
  const uint64_t begin = *least / kBlockPositions;
  const uint64_t end = *most / kBlockPositions + 1;
  STRATA_CHECK(begin >= args.first_block && end - args.first_block <= args.block_stride,
               "positions %u to %u outside a table of %llu blocks from %u on", *least, *most,
               static_cast<unsigned long long>(args.block_stride), args.first_block);
  std::vector<ByteRange> tables;
  for (std::byte* const* table : {args.blocks, args.mirror})
    for (uint64_t head = 0; head < args.n_kv_heads && table != nullptr; ++head)
      tables.push_back(range_of(table + head * args.block_stride + begin - args.first_block,
                                (end - begin) * sizeof(std::byte*)));
  return tables;
}
std::vector<ByteRange> tables_of(const DeviceAttendArgs& args, uint32_t stage) {
  return attention_tables(args, stage);
}
std::vector<ByteRange> tables_of(const DevicePrefillArgs& args, uint32_t stage) {
  return attention_tables(args, stage);
}

}  // namespace strata::planner
