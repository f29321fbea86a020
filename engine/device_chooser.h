// engine/device_chooser.h - few rows of a device attend blocks that the host chooses: per layer the
// queries come to the host, or what the device has found by them in the index's rows
// (engine/device_index.h), and tables of what it chose go back. Why between the two: indexes, the
// policy of choosing and what is read from disk are those of the walk (engine/walk_select.cc,
// engine/walk_chosen.cc), copies of blocks and the stream are the device's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/device.h"
#include "engine/device_index.h"
#include "engine/device_kv.h"
#include "gpu_attn/decode_step.h"

namespace strata::engine {

/// What a KV head attends of its text: full blocks that were chosen, and all from a block on.
struct ChosenContext {
  std::span<const uint32_t> blocks;  // ascending, each before first_open
  uint32_t first_open;
};

/// Whoever has the indexes, and the store's blocks.
class ContextChooser {
 public:
  virtual ~ContextChooser() = default;
  /// Whether so many rows choose blocks of the layer by what an index says of each one's queries:
  /// then whoever has its rows may ask them.
  virtual bool asks_index(uint32_t layer, uint32_t n_rows) const = 0;
  /// Chooses for rows [first_row, first_row + n_rows) of the sequence's rows in the step, by their
  /// queries [n_kv_heads][n_rows][group, head_dim], which carry the attention scale; or where the
  /// index was asked, by `weights`, and q is null.
  virtual void choose(uint32_t layer, uint32_t first_row, uint32_t n_rows, const float* q,
                      const BlockWeights& weights) = 0;
  /// Of the rows that were chosen for last.
  virtual ChosenContext context(uint32_t kv_head) const = 0;
  /// Brings blocks that the layer has chosen into DRAM, from the first on as many as it holds at a
  /// time, at least one, and keeps them there until bring() or choose() is called again or the rows
  /// end. Returns how many. Errors: those of BlockStore::pin().
  virtual size_t bring(uint32_t layer, std::span<const tiers::BlockId> blocks) = 0;
};

class DeviceChooser : public gpu_attn::LayerChooser {
 public:
  /// `kv`, `cache` and `stream`, on which steps are queued, are borrowed. Errors: kOutOfMemory,
  /// kDeviceLost.
  DeviceChooser(const OpenDevice& device, const KvCache& cache, DeviceKv& kv, Stream& stream,
                uint64_t n_ctx);
  static uint64_t memory_bytes(const ModelShape& shape, uint64_t n_ctx);  // of the device
  static uint64_t host_bytes(const ModelShape& shape, uint64_t n_ctx);    // of DRAM
  /// Of DRAM, where K and V spill, beside host_bytes().
  static uint64_t spilling_bytes(const ModelShape& shape, uint64_t n_ctx);

  /// What follows are rows from first_row on, which stand at `positions` of the text and are
  /// chosen for by `owner`; `index` has what it has of their sequence, null: nothing.
  void begin(ContextChooser& owner, DeviceIndex* index, uint32_t first_row,
             std::span<const uint32_t> positions);

  bool chooses(uint32_t layer) const override;
  int choose(DeviceStream* stream, uint32_t layer, uint32_t n_rows, const float* q,
             gpu_attn::ChosenTables& tables) override;

 private:
  void note_chosen(uint32_t layer, uint32_t end_block);
  void copy_missing(uint32_t layer);
  void put_tables(uint32_t layer, uint32_t n_longest, uint32_t end_block);

  const KvCache& cache_;
  DeviceKv& kv_;
  Stream& stream_;
  HostMemory host_memory_;  // queries of a layer, or tables and positions
  PinnedMemory pinned_;
  DeviceBuffer memory_;  // tables and positions
  // Where K and V spill: what a layer has chosen and the device has no copy of, in the order in
  // which it is attended, and which it is of its stream.
  std::vector<tiers::BlockId> missing_;
  std::vector<std::pair<uint32_t, uint32_t>> missing_at_;
  ContextChooser* owner_ = nullptr;
  DeviceIndex* index_ = nullptr;
  uint32_t first_row_ = 0;
  std::span<const uint32_t> positions_;
};

}  // namespace strata::engine
