// tiers/block_store.h - the KV blocks of all sequences, in DRAM and, where there is a spill file,
// on NVMe: who refers to them, where they lie, how they move, and that what comes back is right.
//
// A block is opened in a DRAM slot, filled by the walk, and frozen together with the other blocks
// of its extent: 256 positions of all streams of one layer. Freezing writes the extent through to
// its place in the spill file and tags every block, so that evicting is free later: the slots are
// given up, nothing moves. An evicted extent is read back as a whole into a staging frame for as
// long as somebody holds it. Every block's tag is checked on every read: it is the right block, bit
// for bit, or its extent is lost by name and the engine computes it again.
//
// An extent on disk is stream-major: for each KV head its eight blocks, block_bytes apart; padded
// at the end to the file's alignment. A pack of a saved context (tiers/pack_format.h) has the same
// layout, so its extents are read in the same way, and taken into DRAM where there is room.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/kv_layout.h"
#include "base/thread_pool.h"
#include "tiers/block_pool.h"
#include "tiers/block_tag.h"
#include "tiers/file.h"
#include "tiers/pack_reader.h"
#include "tiers/spill.h"

namespace strata::tiers {

enum class BlockId : uint32_t {};
inline constexpr BlockId kNoBlock = static_cast<BlockId>(UINT32_MAX);
enum class ExtentId : uint32_t {};
inline constexpr ExtentId kNoExtent = static_cast<ExtentId>(UINT32_MAX);

struct StoreCounts {
  uint64_t extents_written = 0, extents_read = 0, extents_evicted = 0;
  uint64_t write_failures = 0;   // the extent stayed in DRAM
  uint64_t places_refused = 0;   // likewise: the budget on disk was used up
  uint64_t frames_refused = 0;   // likewise: no staging frame came free
  uint64_t retries = 0;          // reads repeated after an error or a wrong tag
  uint64_t corrupt_blocks = 0;   // reads whose tag was wrong
  uint64_t lost_extents = 0;     // could not be read; each is computed again
  uint64_t extents_settled = 0;  // taken back into DRAM
  uint64_t replaced_blocks = 0;
};

/// A layer of an extent in a pack that this run did not write: eight blocks of each stream.
struct SavedExtent {
  std::shared_ptr<const PackReader> pack;
  IoFile file{};  // of BlockStore::add_pack
  uint32_t pack_extent = 0;
  uint32_t layer = 0;
  uint32_t first_pos = 0;
};

/// An extent could not be read back. Whoever runs the step undoes it, computes the blocks again and
/// replaces them.
class LostExtent : public Error {
 public:
  LostExtent(ExtentId extent, uint32_t layer, uint32_t first_pos, const std::string& cause);
  ExtentId extent() const { return extent_; }
  uint32_t layer() const { return layer_; }
  uint32_t first_pos() const { return first_pos_; }

 private:
  ExtentId extent_;
  uint32_t layer_;
  uint32_t first_pos_;
};

/// One caller at a time. A store without a spill is a DRAM arena of reference-counted blocks.
class BlockStore {
 public:
  /// Errors: those of BlockPool.
  BlockStore(const KvLayout& layout, uint32_t n_layers, uint64_t dram_bytes, const Hash128& model,
             std::unique_ptr<Spill> spill);
  ~BlockStore();

  // Blocks.
  /// A block in a DRAM slot (beside `previous` where that is possible), with one reference. Nothing
  /// where no slot is free: see make_room().
  [[nodiscard]] std::optional<BlockId> open_block(BlockId previous);
  void add_reference(BlockId block);
  void release(BlockId block);
  uint32_t references(BlockId block) const;
  bool is_frozen(BlockId block) const { return record(block).extent != kNoExtent; }
  bool is_resident(BlockId block) const { return record(block).slot != kNoSlot; }
  SlotId slot_of(BlockId block) const { return record(block).slot; }  // kNoSlot: not resident
  /// Resident, or its extent is held and accepted.
  bool is_readable(BlockId block) const;
  ExtentId extent_of(BlockId block) const { return record(block).extent; }
  /// Bytes of an open block, to be filled.
  std::byte* open_bytes(BlockId block);
  /// Bytes of a readable block.
  const std::byte* bytes(BlockId block) const;

  // Extents.
  bool has_spill() const { return spill_ != nullptr && spill_->places != nullptr; }
  bool has_away() const { return n_away_ > 0; }  // extents that only a file holds
  /// Writes an extent's blocks through to the spill file, [n_kv_heads][8] with kNoBlock for those
  /// that another extent holds; `chain` are the chain hashes after each of the eight blocks. Where
  /// the spill file is full, the disk fails or every staging frame is held, the blocks stay in
  /// DRAM, which is counted. False where waiting for the disk was stopped (TransferQueue::
  /// set_cancel): then nothing has happened, and the extent can be frozen later.
  [[nodiscard]] bool freeze(uint32_t layer, uint32_t first_pos, std::span<const Hash128> chain,
                            std::span<const BlockId> blocks);
  /// What is frozen from here on is of a new step.
  void begin_step() { ++step_; }
  /// Evicts until n slots are free, waiting for writes in flight where it must. False where that is
  /// impossible: what is in DRAM then is open or could not be written.
  /// Victims: of the layer with most resident extents, the latest but the last: the first positions
  /// and the last are read the soonest. What the last step has frozen comes after everything else,
  /// since its writes may still be in flight. No victim depends on when a write ends, so what is in
  /// DRAM follows from the steps alone, unless a write fails.
  [[nodiscard]] bool make_room(uint64_t n_slots);
  /// Slots that stay free when extents that were read are taken into DRAM. Without it they are read
  /// for as long as they are held only.
  void set_headroom(uint64_t n_slots) { headroom_slots_ = n_slots; }
  uint64_t headroom() const { return headroom_slots_; }

  // Saved contexts.
  /// Whether packs can be read: there are transfers.
  bool can_adopt() const { return spill_ != nullptr; }
  /// The file of a pack that was added before stays open and is given again. Errors: kIo.
  IoFile add_pack(const PackReader& pack);
  /// Blocks of a pack, with one reference each and in no slot: they are read when they are used.
  /// blocks [n_kv_heads][8].
  void adopt(const SavedExtent& saved, std::span<BlockId> blocks);
  const BlockPool& pool() const { return pool_; }
  const StoreCounts& counts() const { return counts_; }
  /// Why the last extent that was refused or failed stayed in DRAM, the budget on disk aside; kOk
  /// where none did.
  IoStatus last_failure() const { return last_failure_; }
  /// From now on waits for the disk look at the flag (TransferQueue::set_cancel).
  void set_cancel(const std::atomic<bool>* flag) {
    if (spill_) spill_->transfers->set_cancel(flag);
  }
  /// Null where there is no spill.
  const TransferQueue* transfers() const { return spill_ ? spill_->transfers.get() : nullptr; }
  const PlaceSource* places() const { return spill_ ? spill_->places.get() : nullptr; }

  // Reading back. Holds are counted: the frame of an extent is free again after the last release.
  /// Begins to read an evicted extent. False where no frame is free: release what was fetched
  /// before, or wait_for_transfer().
  [[nodiscard]] bool fetch(ExtentId extent);
  /// Waits for the reads of these extents and checks every tag, in parallel. Errors: LostExtent,
  /// for the first one that could not be read rightly, twice; kCancelled, and they stay held.
  void take(std::span<const ExtentId> extents, ThreadPool& pool);
  void release(ExtentId extent);
  /// Collects transfers that have ended; never waits.
  void poll() { collect_writes(); }
  /// Whether take() would not wait for this extent, as of the last poll.
  bool has_arrived(ExtentId id) const;
  /// Waits until a transfer ends. False where none is in flight or none ended in time.
  bool wait_for_transfer();

  /// Of the packs of extents that were lost, but for those that did not answer: one that was not
  /// forgotten yet, or null.
  std::shared_ptr<const PackReader> first_damaged_pack() const {
    return damaged_packs_.empty() ? nullptr : damaged_packs_.front();
  }
  /// Forgets what first_damaged_pack() gives.
  void forget_damaged_pack() { damaged_packs_.erase(damaged_packs_.begin()); }

  /// `lost` gets the bytes and the place of `fresh` and the other way round. Counted where it is a
  /// repair, and not where computing was merely quicker than reading.
  void replace(BlockId lost, BlockId fresh, bool is_repair);

 private:
  enum class ExtentState : uint8_t { kWriting, kStored, kLost };
  struct Block {
    SlotId slot = kNoSlot;
    uint32_t references = 0;
    ExtentId extent = kNoExtent;
    uint32_t idx = 0;  // in the extent
  };
  struct Extent {
    ExtentState state = ExtentState::kWriting;
    uint32_t layer = 0;
    uint32_t first_pos = 0;
    uint32_t n_live = 0;      // blocks with references
    uint32_t n_resident = 0;  // of these, in DRAM slots
    uint32_t holds = 0;
    bool is_accepted = false;  // read and every tag right
    bool is_away = false;      // in no slot
    uint64_t place = 0;
    uint64_t generation = 0;
    uint64_t step = 0;                       // that froze it
    std::vector<BlockId> blocks;             // [n_kv_heads][8]
    std::vector<Hash128> tags;               // as blocks; those of a pack stay in the pack
    std::vector<Hash128> chain;              // [8]
    std::shared_ptr<const PackReader> pack;  // null: in the spill file
    uint32_t pack_extent = 0;
    IoFile file{};
    Ticket ticket;
    ReadLease lease;
  };
  Block& record(BlockId block);
  const Block& record(BlockId block) const;
  Extent& extent(ExtentId id);
  const Extent& extent(ExtentId id) const;
  uint64_t extent_bytes(const Extent& of) const;
  BlockIdentity identity(const Extent& of, uint32_t idx) const;
  ExtentId add_extent();
  std::optional<FillLease> wait_for_frame();
  std::optional<uint64_t> take_place(uint32_t layer, uint32_t first_pos);
  void collect_writes();
  bool take_ended_writes();
  void write_ended(ExtentId id, IoStatus status);
  void forget(ExtentId id);
  void free_if_unused(ExtentId id);
  void evict(ExtentId id);
  bool is_being_written(ExtentId id) const;
  size_t n_before_last_step(const std::vector<ExtentId>& resident) const;
  ExtentId victim() const;
  IoStatus wait_for_read(Extent& of);
  uint32_t count_corrupt(const Extent& of, ThreadPool& pool) const;
  void take_one(ExtentId id, ThreadPool& pool);
  bool is_right(const Extent& of, uint32_t idx, std::span<const std::byte> all) const;
  bool open_slots(const Extent& of);
  void settle(ExtentId id, bool is_right);
  BlockId add_block(const Block& block);
  void set_away(Extent& of, bool is_away);

  KvLayout layout_;
  Hash128 model_;
  BlockPool pool_;
  /// Open as long as the store: an Io keeps its files.
  struct PackFile {
    File file;
    IoFile io{};
    std::pair<uint64_t, uint64_t> id;  // device and number of the file: a name may be given again
  };
  std::vector<std::unique_ptr<PackFile>> pack_files_;  // outlive the transfers of spill_
  std::unique_ptr<Spill> spill_;
  std::vector<Block> blocks_;
  std::vector<uint32_t> free_blocks_;
  std::vector<Extent> extents_;
  std::vector<uint32_t> free_extents_;
  std::vector<std::vector<ExtentId>> resident_;  // per layer: in DRAM, frozen, oldest first
  std::deque<std::pair<ExtentId, Ticket>> writes_;
  bool is_spill_off_ = false;  // after failures that the next write would meet again
  IoStatus last_failure_ = IoStatus::kOk;
  uint64_t n_away_ = 0;
  uint64_t headroom_slots_ = UINT64_MAX;
  std::vector<SlotId> opened_slots_;  // for the blocks of the extent being taken
  uint64_t next_generation_ = 1;
  uint64_t step_ = 1;
  std::vector<std::shared_ptr<const PackReader>> damaged_packs_;
  StoreCounts counts_;
};

}  // namespace strata::tiers
