// engine/device_kv.h - KV blocks in a device's memory: copies of what DRAM and files hold.
// Why: the store stays every block's home, so forks, saved contexts and the disk know nothing of
// devices, a copy can be given up at any time, and what does not fit is read across the link, or
// where K and V spill attended by the CPU. What steps choose is in engine/device_kv_chosen.cc.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "engine/device.h"
#include "engine/kv_cache.h"

namespace strata::engine {

/// The block tables of one layer on the device: entry [head * stride + i] is block i of a KV head's
/// text.
struct DeviceKvTables {
  std::byte* const* blocks;  // where a block is read and its new rows go
  std::byte* const* homes;   // its home, as the device reaches it
  uint64_t stride;
};

/// Bytes of blocks, since the start: that moved between the device and their homes, that were
/// chosen by rows which do not attend everything, and those of full layers of every step whose rows
/// do.
struct DeviceKvCounts {
  uint64_t fetched_bytes = 0;
  uint64_t written_bytes = 0;
  uint64_t chosen_bytes = 0;
  uint64_t missed_bytes = 0;  // of those chosen, what had no copy then
  uint64_t attended_bytes = 0;
  uint64_t far_bytes = 0;  // of those attended, what has no copy and is read across the link
  uint64_t cpu_bytes = 0;  // of those attended, what has no copy and the CPU attends

  /// Share of the blocks that steps wanted which the device had.
  double hit_rate() const {
    const uint64_t wanted = chosen_bytes + attended_bytes;
    if (wanted == 0) return 1;
    return 1 -
           static_cast<double>(missed_bytes + far_bytes + cpu_bytes) / static_cast<double>(wanted);
  }
};

/// One sequence at a time has its tables here; another one's are made when it steps.
class DeviceKv {
 public:
  /// Takes slots_bytes of the device for blocks and what tables of n_ctx positions need, and pins
  /// the cache's arena. Errors: kOutOfMemory, kDeviceLost.
  /// Of a layer only the first near_blocks[layer] blocks of a text get copies by begin_step();
  /// empty: as many as there is room for. Where the cache spills, all of these have copies in every
  /// step that attends everything, for which others give way, and the other blocks of full layers
  /// are not the device's to read: there must be room for what near_blocks says and for windowed
  /// layers.
  DeviceKv(const OpenDevice& device, KvCache& cache, uint64_t slots_bytes, uint64_t n_ctx,
           std::vector<uint32_t> near_blocks = {});

  /// Of the device, beside the slots.
  static uint64_t table_bytes(const ModelShape& shape, uint64_t n_ctx);
  /// Of DRAM, beside a store of so many blocks.
  static uint64_t host_bytes(const ModelShape& shape, uint64_t n_ctx, uint64_t n_blocks);

  /// Makes the tables those of `sequence` for a step over rows [n_pos, n_pos + n_rows), for which
  /// KvCache::open_rows() has made room, and queues on `stream` the copies that lack on the device.
  /// Where the cache spills and the rows choose what they attend of full layers, none of these
  /// lacks before it is chosen.
  /// The host waits for the stream before the next begin_step(). Errors: LostExtent, kIo (a saved
  /// context that is read now), kDoesNotFit (DRAM does not hold it), kDeviceLost.
  void begin_step(Stream& stream, const Sequence& sequence, uint32_t n_rows, bool chooses = false);
  DeviceKvTables tables(uint32_t layer) const;

  /// The rows of the step attend everything, which is counted; of it the CPU n_cpu_blocks.
  void attend_all(uint64_t n_cpu_blocks = 0);
  /// What is chosen from now on is of another layer: what was chosen before is not wanted any more
  /// in this step.
  void begin_choice() { ++n_choices_; }
  /// Rows of the step have chosen a block: it keeps the copy that it has until the next step, or
  /// where the cache spills until the next choice. False where there is none.
  bool choose(uint32_t stream_idx, uint32_t block_idx);
  /// Where the cache spills: a chosen block without a copy, which is in DRAM and stays there until
  /// the host has waited for `stream` after flush_chosen(), gets one. Errors: kDoesNotFit where
  /// this choice and what every step attends take all of the device's room; kDeviceLost.
  void copy_chosen(Stream& stream, uint32_t stream_idx, uint32_t block_idx);
  /// Where the device reads a chosen block, after every block of its layer has been said to
  /// choose(). One without a copy gets one, where there is room or in place of the copy that was
  /// chosen longest ago among a few, but for those of this step: what the next token attends is
  /// mostly what this one does. Its bytes are there for what is queued after flush_chosen(). The
  /// host has waited for the stream since the last flush_chosen().
  std::byte* fetch(uint32_t stream_idx, uint32_t block_idx);
  void flush_chosen(Stream& stream);
  /// Queues what brings the step's rows home, where they were not written to both places.
  void end_step(Stream& stream, bool is_mirrored);
  /// The rows behind those that `sequence` has are written at home alone.
  void leave_rows(const Sequence& sequence);

  /// Of the text that the tables are of.
  tiers::BlockId block_at(uint32_t stream_idx, uint32_t block_idx) const {
    return entry_of_[stream_idx * stride_ + block_idx];
  }
  /// Whether the device has what this block holds, but for rows that a step writes now.
  bool has_copy(tiers::BlockId block) const;
  const DeviceKvCounts& counts() const { return counts_; }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Copy {
    uint32_t slot = kNone;    // of the device
    uint64_t generation = 0;  // of the block when it was copied
  };
  /// Whose copy a slot of the device has, and when it was wanted last.
  struct Slot {
    tiers::BlockId block = tiers::kNoBlock;
    uint64_t entry = 0;        // of the tables where it stood last
    uint64_t last_chosen = 0;  // choice; kAlways: what every step attends
    uint64_t n_tables = 0;     // DeviceKv::n_tables_ when it was placed
  };
  static constexpr uint64_t kAlways = UINT64_MAX;
  static uint32_t number(tiers::BlockId block) { return static_cast<uint32_t>(block); }
  void settle(const Sequence& sequence, uint32_t layer, uint32_t first_block);
  void place(uint32_t stream_idx, uint32_t block_idx, tiers::BlockId block, bool has_rows,
             bool is_windowed, bool is_near);
  Copy& copy_of(tiers::BlockId block);
  bool is_far(uint64_t entry) const;
  void put(uint64_t entry, std::byte* block);
  void list_copy(std::byte* from, uint32_t slot);
  bool has_room_in_lists() const {
    return n_set_ + 2 <= set_index_.size() && n_copies_ < copy_from_.size();
  }
  uint64_t last_use(uint32_t slot) const;
  uint32_t slot_in_place_of_another();
  uint32_t slot_for_chosen();
  std::byte* home_of(tiers::BlockId block) const;
  void give_copy(uint64_t entry, uint32_t slot);
  uint32_t slot_of_another_text();
  void give_up(uint32_t slot);
  void begin_turn(const Sequence& sequence);
  void keep_near(Stream& stream, const Sequence& sequence);
  void read_near(Stream& stream, const Sequence& sequence, uint32_t layer, uint32_t first);
  void place_layer(Stream& stream, const Sequence& sequence, uint32_t layer, uint32_t first);
  uint32_t free_slot();
  void reclaim();
  std::byte* address(uint32_t slot) const;
  void flush_lists(Stream& stream, bool is_last);

  KvCache& cache_;
  uint32_t block_bytes_;
  uint64_t stride_;  // of the tables
  std::vector<uint32_t> near_blocks_;
  DeviceBuffer slots_;
  DeviceBuffer tables_;  // [2][n_streams, stride]: blocks, homes
  PinnedMemory arena_;
  HostMemory list_memory_;
  PinnedMemory pinned_lists_;
  // In list_memory_: entries to set, and blocks to copy.
  std::span<uint32_t> set_index_;
  std::span<uint64_t> set_value_;
  std::span<std::byte*> copy_from_;
  std::span<std::byte*> copy_to_;
  uint32_t n_set_ = 0;
  uint32_t n_copies_ = 0;
  std::vector<std::byte*> entries_;       // what the tables hold, [2][n_streams, stride]
  std::vector<tiers::BlockId> entry_of_;  // the blocks that they say this of, [n_streams, stride]
  std::vector<Copy> copies_;              // by block
  std::vector<Slot> slots_of_device_;
  std::vector<uint32_t> free_slots_;
  uint32_t hand_ = 0;       // where the search for a slot to give up goes on
  uint64_t n_choices_ = 0;  // begun: layers that have chosen, and steps
  // Of this step; of the last one of its text, or of any where that was too long ago.
  uint64_t first_choice_ = 0, last_first_choice_ = 0;
  struct Turn {
    uint64_t edition = 0, first_choice = 0;
  };
  std::array<Turn, 16> turns_;  // the last step of each text
  uint64_t n_tables_ = 0;       // made anew
  uint64_t n_far_ = 0;          // blocks of full layers in these tables that have no copy
  uint32_t n_known_ = 0;        // blocks of each stream that these tables had before this step
  bool is_swept_ = false;       // in this step, and no slot came free
  bool chooses_ = false;        // rows of the step for which these tables are
  uint64_t edition_ = 0;
  uint64_t n_evicted_ = 0;  // extents, when the tables were made
  uint32_t first_row_ = 0;
  uint32_t end_row_ = 0;
  DeviceKvCounts counts_;
};

}  // namespace strata::engine
