// tiers/block_pool.h - slots for KV blocks in one DRAM arena of fixed budget.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/host_memory.h"

namespace strata::tiers {

enum class SlotId : uint32_t {};
inline constexpr SlotId kNoSlot = static_cast<SlotId>(UINT32_MAX);

/// Room for n_slots blocks of block_bytes. Slots come in runs of eight neighbours (256 positions of
/// a stream): a stream that fills a run is read sequentially, which moves about twice as fast as
/// scattered blocks. Not thread-safe.
class BlockPool {
 public:
  static constexpr uint32_t kRunSlots = 8;

  /// As many slots as budget_bytes holds. Errors: kOutOfMemory, kDoesNotFit (not one block).
  BlockPool(uint64_t budget_bytes, uint32_t block_bytes);

  uint32_t n_slots() const { return n_slots_; }
  uint32_t n_free() const { return n_free_; }
  uint32_t peak_used() const { return peak_used_; }
  uint32_t block_bytes() const { return block_bytes_; }
  uint64_t budget_bytes() const { return budget_bytes_; }

  /// A free slot, now taken: the neighbour after `previous` where that is free and in the
  /// same run, else the first of a free run, else any. Nothing where all are taken.
  std::optional<SlotId> take(SlotId previous);
  /// n neighbouring runs, the slots of all of them now taken: the first slot. Nothing where no n
  /// free runs are neighbours.
  std::optional<SlotId> take_runs(uint32_t n_runs);
  /// Frees a taken slot. Its bytes are poison now, as those of a slot just taken (tiers/poison.h).
  void release(SlotId slot);
  bool is_taken(SlotId slot) const;
  std::byte* address(SlotId slot) const;
  /// The slot that begins there.
  SlotId slot_at(const std::byte* address) const;
  /// All slots, n_slots * block_bytes.
  std::span<std::byte> memory() const { return {memory_.data(), memory_.size()}; }

  /// The memory lasts as long as the process: a device may still write into it.
  void abandon_memory() { memory_.abandon(); }

 private:
  void mark_used(uint32_t slot);
  uint64_t budget_bytes_;
  uint32_t block_bytes_;
  uint32_t n_slots_ = 0;
  uint32_t n_free_ = 0;
  uint32_t peak_used_ = 0;
  HostMemory memory_;
  std::vector<uint8_t> is_taken_;
  std::vector<uint8_t> run_used_;  // slots taken in each run
  // A stack of runs, each once: all that are wholly free, and some that take_runs() has taken.
  std::vector<uint32_t> free_runs_;
  std::vector<uint8_t> is_listed_;  // by run: it is in free_runs_
  uint32_t next_run_ = 0;           // where take_runs() looks first
  uint32_t first_free_hint_ = 0;    // where the search for a free slot in part-used runs goes on
};

}  // namespace strata::tiers
