// Attention of a predicted step: where K and V come from, and who attends them.
#include <algorithm>

#include "base/check.h"
#include "base/checked_math.h"
#include "planner/virtual/predicted_step.h"
#include "planner/virtual/virtual_table.h"

namespace strata::planner {

/// The block with which a layer's table begins.
uint64_t PredictedStep::first_block(uint32_t layer, const Rows& rows) const {
  const uint64_t window = model_.shape.layers[layer].window;
  if (layers_[layer].is_full || rows.first_pos + 1 <= window) return 0;
  return (rows.first_pos + 1 - window) / kBlockPositions;
}

/// Which blocks of a selection are cached does not change: hits come first, the others stand at
/// equal distances over the context, or in the staging buffer of the disk's reads.
void PredictedStep::set_selected(uint32_t layer) {
  const Layer& of = layers_[layer];
  const uint64_t block_bytes = model_.layout.block_bytes;
  const uint64_t n_missed = n_selected_ - n_hits_;
  const uint64_t distance = n_missed == 0 ? 1 : std::max<uint64_t>(of.stride / n_missed, 1);
  for (uint64_t head = 0; head < model_.shape.layers[layer].n_kv_heads; ++head) {
    std::byte** table = of.selected + head * n_selected_;
    for (uint64_t i = 0; i < n_selected_; ++i) {
      const uint64_t missed = i - n_hits_;
      if (i < n_hits_)
        table[i] = of.cache + (head * n_hits_ + i) * block_bytes;
      else if (staging_ != nullptr)
        table[i] = staging_ + (head * n_missed + missed) * block_bytes;
      else
        table[i] = of.kv + (head * of.stride + missed * distance) * block_bytes;
    }
  }
}

/// The table of a step: blocks of `base`, in order; of a windowed layer as a ring; where they are
/// copies of those at home, the open block of a decoded token is the one at home. A full layer's
/// table of the same base is only continued, from what was its last block.
void PredictedStep::set_table(uint32_t layer, const Rows& rows, std::byte* base) {
  Layer& of = layers_[layer];
  const uint64_t block_bytes = model_.layout.block_bytes;
  const uint64_t first = first_block(layer, rows);
  const uint64_t end = div_up(uint64_t{rows.first_pos} + rows.n_rows, kBlockPositions);
  const bool is_open_at_home = base != of.kv && n_rows_max_ == 1;
  const uint64_t from = of.is_full && of.table_base == base ? of.n_in_table - 1 : first;
  for (uint64_t head = 0; head < model_.shape.layers[layer].n_kv_heads; ++head)
    for (uint64_t block = from; block < end; ++block) {
      const uint64_t at = head * of.stride + block % of.stride;
      const bool is_home = is_open_at_home && block + 1 == end;
      of.table[head * of.stride + block - first] = (is_home ? of.kv : base) + at * block_bytes;
    }
  of.table_base = base;
  of.n_in_table = end - first;
}

/// Keeps the copies of K and V two layers ahead: of what stands before the step they are for.
void PredictedStep::ask_kv() {
  if (ahead_kv_layers_.empty()) return;
  AheadBuffers& ahead = kv_ahead_;
  const uint64_t n_layers = ahead_kv_layers_.size();
  for (; ahead.n_asked < ahead.n_taken + AheadBuffers::kSlots; ++ahead.n_asked) {
    const uint32_t layer = ahead_kv_layers_[ahead.n_asked % n_layers];
    const uint64_t slot = ahead.n_asked % AheadBuffers::kSlots;
    uint64_t n_blocks = layers_[layer].stride;
    if (n_rows_max_ > 1) {
      const uint64_t n_before = ahead.n_asked / n_layers * n_rows_max_;
      if (n_before >= n_positions_max_) return;
      n_blocks = n_before / kBlockPositions;
    }
    check(table_.await(ahead.stream, ahead.used[slot]));
    check(table_.await(ahead.stream, stored_));
    copy_kv(layer, ahead.slots[slot], n_blocks);
    check(table_.record(ahead.stream, ahead.arrived[slot]));
  }
}

/// The first n_blocks of every KV head, from home.
void PredictedStep::copy_kv(uint32_t layer, std::byte* slot, uint64_t n_blocks) {
  const Layer& of = layers_[layer];
  const uint64_t head_bytes = of.stride * model_.layout.block_bytes;
  const uint32_t n_kv_heads = model_.shape.layers[layer].n_kv_heads;
  if (n_blocks == of.stride)
    return check(table_.copy(kv_ahead_.stream, slot, of.kv, n_kv_heads * head_bytes));
  for (uint64_t head = 0; head < n_kv_heads; ++head)
    check(table_.copy(kv_ahead_.stream, slot + head * head_bytes, of.kv + head * head_bytes,
                      n_blocks * model_.layout.block_bytes));
}

void PredictedStep::attend(uint32_t layer, const Rows& rows) {
  const Layer& of = layers_[layer];
  const bool is_ahead = of.is_full && is_kv_ahead();
  const uint64_t slot = kv_ahead_.n_taken % AheadBuffers::kSlots;
  std::byte* base = is_ahead ? kv_ahead_.slots[slot] : of.kv;
  if (is_ahead) check(table_.await(kernels_, kv_ahead_.arrived[slot]));
  const bool is_decoded = n_rows_max_ == 1;
  const KvPlace place = of.is_full ? placement_.kv : KvPlace::kHbm;
  if (place == KvPlace::kSelectedNvme)
    set_open_blocks(layer, rows);
  else
    set_table(layer, rows, base);
  rotate(layer, rows);
  if (!is_decoded)
    prefill_table(layer, rows);
  else if (place == KvPlace::kDramOnCpu)
    attend_on_cpu(layer, rows);
  else if (place == KvPlace::kSelectedDram || place == KvPlace::kSelectedNvme)
    attend_selected(layer);
  else
    attend_table(layer, rows);
  if (!is_ahead) return;
  if (!is_decoded) store_chunk(layer, rows, base);
  check(table_.record(kernels_, kv_ahead_.used[slot]));
  ++kv_ahead_.n_taken;
  ask_kv();
}

/// Of K and V on the disk DRAM holds the block of each KV head that is being written.
void PredictedStep::set_open_blocks(uint32_t layer, const Rows& rows) {
  const Layer& of = layers_[layer];
  const uint64_t block = rows.first_pos / kBlockPositions;
  for (uint64_t head = 0; head < model_.shape.layers[layer].n_kv_heads; ++head)
    of.table[head * of.stride + block] = of.kv + head * model_.layout.block_bytes;
}

void PredictedStep::rotate(uint32_t layer, const Rows& rows) {
  const LayerShape& of = model_.shape.layers[layer];
  const uint64_t head_dim = model_.shape.head_dim;
  const auto* q = reinterpret_cast<const float*>(projected_);
  const float* k = q + uint64_t{rows.n_rows} * of.n_heads * head_dim;
  DeviceRotateArgs args{};
  args.q = q;
  args.k = k;
  args.v = k + uint64_t{rows.n_rows} * of.n_kv_heads * head_dim;
  args.positions = positions_ + rows.first_pos;
  args.blocks = layers_[layer].table;
  args.block_stride = layers_[layer].stride;
  args.first_block = static_cast<uint32_t>(first_block(layer, rows));
  args.layout = model_.layout;
  args.q_out = attended_ + uint64_t{rows.n_rows} * of.n_heads * head_dim;
  args.n_rows = rows.n_rows;
  args.n_kv_heads = of.n_kv_heads;
  args.group = of.n_heads / of.n_kv_heads;
  check(table_.kernels.rotate(kernels_, args));
}

void PredictedStep::attend_table(uint32_t layer, const Rows& rows) {
  const Layer& of = layers_[layer];
  const uint64_t first = first_block(layer, rows);
  const uint64_t end = div_up(uint64_t{rows.first_pos} + rows.n_rows, kBlockPositions);
  queue_attend(layer, {.blocks = of.table,
                       .stride = of.stride,
                       .first_block = first,
                       .n_blocks = end - first,
                       .positions = positions_ + rows.first_pos});
}

void PredictedStep::queue_attend(uint32_t layer, const AttendTable& table) {
  const LayerShape& of = model_.shape.layers[layer];
  DeviceAttendArgs args{};
  args.q = attended_ + uint64_t{of.n_heads} * model_.shape.head_dim;
  args.positions = table.positions;
  args.blocks = table.blocks;
  args.block_stride = table.stride;
  args.first_block = static_cast<uint32_t>(table.first_block);
  args.n_blocks = static_cast<uint32_t>(table.n_blocks);
  args.layout = model_.layout;
  args.n_rows = 1;
  args.n_kv_heads = of.n_kv_heads;
  args.group = of.n_heads / of.n_kv_heads;
  args.window = layers_[layer].is_full ? 0 : of.window;
  args.split_blocks = kPredictedSplitBlocks;
  args.n_splits = static_cast<uint32_t>(div_up(table.n_blocks, kPredictedSplitBlocks));
  const uint64_t n_partials = uint64_t{args.n_splits} * of.n_heads;
  args.o = partials_;
  args.m = args.o + n_partials * model_.shape.head_dim;
  args.l = args.m + n_partials;
  check(table_.kernels.attend(kernels_, args));
  merge(layer, args.n_splits);
}

/// Merges partials as queue_attend() or the host's copy left them.
void PredictedStep::merge(uint32_t layer, uint32_t n_splits) {
  const LayerShape& of = model_.shape.layers[layer];
  const uint64_t n_partials = uint64_t{n_splits} * of.n_heads;
  const float* m = partials_ + n_partials * model_.shape.head_dim;
  const DeviceMergeArgs args{.o = partials_,
                             .m = m,
                             .l = m + n_partials,
                             .out = attended_,
                             .quant = quant_rows(1, uint64_t{of.n_heads} * model_.shape.head_dim),
                             .n_splits = n_splits,
                             .n_rows = 1,
                             .n_kv_heads = of.n_kv_heads,
                             .group = of.n_heads / of.n_kv_heads,
                             .head_dim = model_.shape.head_dim};
  check(table_.kernels.merge(kernels_, args));
}

/// q to the host, behind which K and V of the token are in DRAM; the host waits.
void PredictedStep::fetch_q(uint32_t layer) {
  const uint64_t q_width = uint64_t{model_.shape.layers[layer].n_heads} * model_.shape.head_dim;
  check(table_.copy(kernels_, host_q_, attended_ + q_width, q_width * sizeof(float)));
  check(table_.record(kernels_, queried_));
  check(table_.wait_event(queried_));
}

void PredictedStep::attend_on_cpu(uint32_t layer, const Rows& rows) {
  const LayerShape& of = model_.shape.layers[layer];
  const uint64_t n_floats = uint64_t{of.n_heads} * (model_.shape.head_dim + 2);
  fetch_q(layer);
  const uint64_t n_positions = uint64_t{rows.first_pos} + rows.n_rows;
  const HostWork work{
      .name = "attend on the CPU",
      .dram_bytes = n_positions * of.n_kv_heads * kv_position_bytes(model_.layout),
      .bytes_per_s = device_.profile().cpu_attend_bytes_per_s.value,
      .reads = {{reinterpret_cast<uint64_t>(layers_[layer].kv), kv_bytes(layer)}},
      .writes = {{reinterpret_cast<uint64_t>(host_partials_), n_floats * sizeof(float)}}};
  check(device_.host_work(work));
  check(table_.copy(kernels_, partials_, host_partials_, n_floats * sizeof(float)));
  merge(layer, 1);
}

void PredictedStep::attend_selected(uint32_t layer) {
  if (placement_.kv == KvPlace::kSelectedNvme) read_selected(layer);
  queue_attend(layer, {.blocks = layers_[layer].selected,
                       .stride = n_selected_,
                       .first_block = 0,
                       .n_blocks = n_selected_,
                       .positions = selected_position_});
}

/// The host learns what is missing with q, reads it and waits; kernels of the layer before have
/// read the staging buffer by then.
void PredictedStep::read_selected(uint32_t layer) {
  fetch_q(layer);
  const uint64_t bytes =
      model_.shape.layers[layer].n_kv_heads * (n_selected_ - n_hits_) * model_.layout.block_bytes;
  std::vector<uint64_t> reads;
  for (uint64_t at = 0; at < bytes; at += placement_.nvme_read_bytes) {
    const uint64_t n = std::min(placement_.nvme_read_bytes, bytes - at);
    check(device_.start_read(staging_ + at, nullptr, n, &reads.emplace_back()));
  }
  for (const uint64_t read : reads) {
    NvmeOutcome outcome = NvmeOutcome::kOk;
    uint64_t n = 0;
    check(device_.wait_read(read, &outcome, &n));
  }
}

void PredictedStep::prefill_table(uint32_t layer, const Rows& rows) {
  const LayerShape& of = model_.shape.layers[layer];
  const uint64_t first = first_block(layer, rows);
  const uint64_t end = div_up(uint64_t{rows.first_pos} + rows.n_rows, kBlockPositions);
  DevicePrefillArgs args{};
  args.q = attended_ + uint64_t{rows.n_rows} * of.n_heads * model_.shape.head_dim;
  args.positions = positions_ + rows.first_pos;
  args.blocks = layers_[layer].table;
  args.block_stride = layers_[layer].stride;
  args.first_block = static_cast<uint32_t>(first);
  args.n_blocks = static_cast<uint32_t>(end - first);
  args.layout = model_.layout;
  args.n_rows = rows.n_rows;
  args.n_kv_heads = of.n_kv_heads;
  args.group = of.n_heads / of.n_kv_heads;
  args.window = layers_[layer].is_full ? 0 : of.window;
  args.out = attended_;
  args.quant = quant_rows(rows.n_rows, uint64_t{of.n_heads} * model_.shape.head_dim);
  check(table_.kernels.prefill(kernels_, args));
}

/// The chunk's blocks to their home, beside the kernels.
void PredictedStep::store_chunk(uint32_t layer, const Rows& rows, const std::byte* slot) {
  const uint64_t block_bytes = model_.layout.block_bytes;
  const uint64_t begin = rows.first_pos / kBlockPositions;
  const uint64_t end = div_up(uint64_t{rows.first_pos} + rows.n_rows, kBlockPositions);
  check(table_.record(kernels_, rotated_));
  check(table_.await(stores_, rotated_));
  for (uint64_t head = 0; head < model_.shape.layers[layer].n_kv_heads; ++head) {
    const uint64_t at = (head * layers_[layer].stride + begin) * block_bytes;
    check(table_.copy(stores_, layers_[layer].kv + at, slot + at, (end - begin) * block_bytes));
  }
  check(table_.record(stores_, stored_));
}

}  // namespace strata::planner
