// engine/device_index.h - rows of indexes in a device's memory, which the device scans for rows
// that choose what they attend: copies of what DRAM holds. Why: choosing reads the rows of all of a
// text for every token, and a card's memory gives several times as many bytes a second as the
// host's. DRAM stays their home, so forks, cuts and saved contexts know nothing of it; what is
// chosen by the scores is the walk's (docs/adr/0027-search-on-the-card.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/device.h"
#include "engine/kv_cache.h"
#include "index/tile_table.h"

namespace strata::engine {

/// What an index says of the blocks that were full before a step, for every query of rows:
/// [n_kv_heads][n_queries][stride], logarithms as EstimateArgs::log_weights has them.
struct BlockWeights {
  const float* values = nullptr;
  uint64_t stride = 0;
};

/// Bytes that crossed the link since the start.
struct DeviceIndexCounts {
  uint64_t row_bytes = 0;     // of rows, to the device
  uint64_t table_bytes = 0;   // of where they lie, to the device
  uint64_t weight_bytes = 0;  // of what it says of blocks, to the host
  uint64_t to_device_bytes() const { return row_bytes + table_bytes; }
};

/// A mirror of the memory that all indexes of a cache have their rows in, slot for slot; it follows
/// editions of tiles (index/tile_memory.h), whoever's they are now. One sequence at a time has its
/// table here.
class DeviceIndex {
 public:
  /// Takes the device's memory and pins that of the rows. The cache's selectors have rotated codes.
  /// `cache` is borrowed. Errors: kOutOfMemory, kDeviceLost.
  DeviceIndex(const OpenDevice& device, const KvCache& cache, uint64_t n_ctx);

  /// Of the device, for n_ctx positions of so many answers at work; 0 where the method has no
  /// rotated codes, or such as no device scans: the host estimates.
  static uint64_t memory_bytes(const ModelShape& shape, const KvLayout& layout, uint64_t n_ctx,
                               uint32_t n_answers, const std::optional<index::Method>& method);
  /// Of DRAM.
  static uint64_t host_bytes(const ModelShape& shape, const KvLayout& layout, uint64_t n_ctx,
                             uint32_t n_answers, const std::optional<index::Method>& method);

  /// Queues on `stream` what the device lacks of the rows of the sequence's full blocks, all of
  /// which are in its index. The host waits for the stream before the next call. Cost of the host:
  /// a look at every slot (4,096 positions of a KV head). Errors: kDeviceLost.
  void begin_step(Stream& stream, const Sequence& sequence);
  /// Whether that sequence has rows here: else the host estimates. Not where begin_step() threw.
  bool has_rows() const { return has_rows_; }
  /// Queues the scan of a layer's rows for `q` [n_kv_heads][n_rows][group, head_dim] of few rows,
  /// and brings the weights to the host, where they are once it has waited, until the next call.
  BlockWeights scan(Stream& stream, uint32_t layer, uint32_t n_rows, const float* q);

  const DeviceIndexCounts& counts() const { return counts_; }

 private:
  class StaleTiles;
  std::byte* place(index::TileSlot slot) const;
  bool has_all(const index::TileTable& codes, uint32_t n_slots) const;
  void follow(index::TileSlot slot, StaleTiles& stale);
  void list(index::StreamIdx row, uint32_t slot_idx, index::TileSlot slot);
  void flush_table(Stream& stream);

  const KvCache& cache_;
  const index::TileMemory& memory_;
  uint64_t table_slots_;  // of a stream
  PinnedMemory arena_;
  DeviceBuffer rows_;       // place for place
  DeviceBuffer table_;      // tiles, [n_streams][table_slots_ * kSlotTiles]
  DeviceBuffer weights_;    // of a layer
  HostMemory host_memory_;  // what table_ is, and behind it the weights
  PinnedMemory pinned_;
  std::span<std::byte*> entries_;
  float* host_weights_;
  std::vector<uint64_t> slot_editions_, tile_editions_;  // of what is in rows_
  std::vector<uint32_t> listed_;                         // slots in entries_
  // Of entries_, what the device is still to be told.
  uint64_t changed_begin_ = UINT64_MAX, changed_end_ = 0;
  bool has_rows_ = false;
  uint32_t n_blocks_ = 0;
  DeviceIndexCounts counts_;
};

}  // namespace strata::engine
