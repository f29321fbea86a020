// tiers/block_store.h - the KV blocks of all sequences, in DRAM and, where there is a spill file,
// on NVMe: who refers to them, where they lie, how they move, and that what comes back is right.
//
// A block is opened in a DRAM slot, filled by the walk, and frozen together with the other blocks
// of its extent: 256 positions of all streams of one layer. Freezing writes the extent through to
// its place in the spill file and tags every block, so that evicting is free later: the slots are
// given up, nothing moves. An evicted extent is read back as a whole into a staging frame for as
// long as somebody holds it; or single blocks of it are, each into a slot, so that an extent may be
// in DRAM in part (docs/adr/0009-single-blocks.md). Every block's tag is checked on every read: it
// is the right block, bit for bit, or its extent is lost by name and the engine computes it again.
//
// An extent on disk is stream-major: for each KV head its eight blocks, block_bytes apart; padded
// at the end to the file's alignment. A pack of a saved context (tiers/pack_format.h) has the same
// layout, so its extents are read in the same way, and taken into DRAM where there is room: where
// that is known before, and neighbouring runs of slots are free, they are read straight into these,
// else copied there from their frames.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
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

/// In what a step reads back what is not in DRAM.
enum class ReadGrain : uint8_t { kExtents, kBlocks };

/// Where an extent is read to: a staging frame, or slots of the arena where that is possible.
enum class ReadTarget : uint8_t { kFrame, kSlots };

struct StoreCounts {
  uint64_t extents_written = 0, extents_read = 0, extents_evicted = 0;
  uint64_t write_failures = 0;    // the extent stayed in DRAM
  uint64_t places_refused = 0;    // likewise: the budget on disk was used up
  uint64_t frames_refused = 0;    // likewise: no staging frame came free
  uint64_t retries = 0;           // reads repeated after an error or a wrong tag
  uint64_t corrupt_blocks = 0;    // reads whose tag was wrong
  uint64_t lost_extents = 0;      // could not be read; each is computed again
  uint64_t extents_settled = 0;   // taken back into DRAM
  uint64_t extents_in_place = 0;  // of these, read into their slots
  uint64_t replaced_blocks = 0;
  uint64_t blocks_pinned = 0;   // asked for one by one
  uint64_t blocks_read = 0;     // of these, those that were not in DRAM
  uint64_t blocks_evicted = 0;  // one by one

  /// As long as it stays, no block has left DRAM.
  uint64_t n_evicted() const { return extents_evicted + blocks_evicted; }
};

/// A layer of an extent in a pack that this run did not write: eight blocks of each stream.
struct SavedExtent {
  std::shared_ptr<const PackReader> pack;
  IoFile file{};  // of BlockStore::add_pack
  uint32_t pack_extent = 0;
  uint32_t layer = 0;
  uint32_t first_pos = 0;
};

/// What a LostExtent says of a failed read, and of an extent that was lost by an earlier one.
std::string failure_text(IoStatus status);
inline constexpr const char* kLostBefore = "it was lost before";

/// Deadlines one after the other without any answer, behind which a disk is called silent.
inline constexpr uint32_t kSilencesMax = 3;

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
  /// Which bytes the id stands for: another number whenever it is given to another block, or its
  /// block was replaced. Whoever keeps a copy knows by it whose that is. 0: the id is free.
  uint64_t generation(BlockId block) const { return record(block).generation; }
  bool is_frozen(BlockId block) const { return record(block).extent != kNoExtent; }
  bool is_resident(BlockId block) const { return record(block).slot != kNoSlot; }
  SlotId slot_of(BlockId block) const { return record(block).slot; }  // kNoSlot: not resident
  /// Resident, or its extent is held and accepted.
  bool is_readable(BlockId block) const;
  ExtentId extent_of(BlockId block) const { return record(block).extent; }
  /// Bytes of an open block, to be filled.
  std::byte* open_bytes(BlockId block);
  /// Bytes of a readable block. A pinned one stays where it is.
  const std::byte* bytes(BlockId block) const;

  // Extents.
  bool has_spill() const { return spill_ != nullptr && spill_->places != nullptr; }
  bool has_away() const { return n_away_ > 0; }  // extents that only a file holds
  /// Writes an extent's blocks through to the spill file, [n_kv_heads][8] with kNoBlock for those
  /// that another extent holds; `chain` are the chain hashes after each of the eight blocks. Where
  /// the spill file is full, the disk fails or every staging frame is held, the blocks stay in
  /// DRAM, which is counted. False where waiting for the disk was stopped (TransferQueue::
  /// set_cancel): then nothing has happened, and the extent can be frozen later.
  /// It is the first of n_run that follow each other in the text and are frozen one after the
  /// other: where extents are small they are written together, from begin_writes() on.
  [[nodiscard]] bool freeze(uint32_t layer, uint32_t first_pos, std::span<const Hash128> chain,
                            std::span<const BlockId> blocks, uint32_t n_run = 1);
  /// Begins all writes of what was frozen, at the latest.
  void begin_writes() {
    if (spill_) spill_->transfers->begin_queued();
  }
  /// What is frozen from here on is of a new step, which reads in this grain: make_room() gives up
  /// whole extents, or the blocks that were unused for longest.
  void begin_step(ReadGrain grain = ReadGrain::kExtents);
  /// Evicts until n slots are free, waiting for writes in flight where it must. False where that is
  /// impossible: what is in DRAM then is open or could not be written.
  /// Victims: in a step of extents, of the layer with most of them in DRAM, wholly or in part, the
  /// latest but the last: the first positions and the last are read the soonest. In a step of
  /// single blocks the block that was unused for longest, by a clock over the slots: amortised, as
  /// many looks as there are slots per frozen block. What the last step froze comes after all else,
  /// since its writes may still be in flight. No victim depends on when a write ends, so what is in
  /// DRAM follows from the steps alone, unless a write fails.
  [[nodiscard]] bool make_room(uint64_t n_slots);
  /// Of each layer, extents that begin before this position go before all others in steps of
  /// extents: most of what reads them finds them elsewhere. Empty: none do.
  void set_first_victims(std::vector<uint32_t> end_pos) { first_victims_ = std::move(end_pos); }
  /// Slots that stay free when extents that were read are taken into DRAM. Without it they are read
  /// for as long as they are held only.
  void set_headroom(uint64_t n_slots) { headroom_slots_ = n_slots; }
  uint64_t headroom() const { return headroom_slots_; }
  /// Live blocks of these extents that are in no slot, at most: each extent counts as often as it
  /// is listed.
  uint64_t n_missing(std::span<const ExtentId> extents) const;
  /// Whether n blocks that are read would be taken into DRAM. Slots that something is read into are
  /// not free.
  bool can_settle(uint64_t n) const {
    return pool_.n_free() >= headroom_slots_ && pool_.n_free() - headroom_slots_ >= n;
  }

  // Saved contexts.
  /// Whether packs can be read: there are transfers.
  bool can_adopt() const { return spill_ != nullptr; }
  /// The file of a pack, open for as long as blocks of it are adopted: one that is open already is
  /// given again. Errors: kIo.
  IoFile add_pack(const PackReader& pack);
  /// Closes those of which no block is adopted any more and no transfer has not ended.
  void close_unused_packs();
  /// Blocks of a pack, with one reference each and in no slot: they are read when they are used.
  /// blocks [n_kv_heads][8].
  void adopt(const SavedExtent& saved, std::span<BlockId> blocks);
  /// Reads bytes of a file of add_pack() that the caller checks and keeps, past the page cache and
  /// within the deadline of a transfer each. The offset is in the file's alignment, and what is
  /// there up to the next multiple of it is read as well. Errors: kCancelled.
  [[nodiscard]] IoStatus read_pack(IoFile file, uint64_t offset, std::span<std::byte> out);
  const BlockPool& pool() const { return pool_; }
  const StoreCounts& counts() const { return counts_; }
  /// Why the last extent that was refused or failed stayed in DRAM, the budget on disk aside; kOk
  /// where none did.
  IoStatus last_failure() const { return last_failure_; }
  /// From now on waits for the disk look at the flag (TransferQueue::set_cancel).
  void set_cancel(const std::atomic<bool>* flag);
  /// Null where there is no spill.
  const TransferQueue* transfers() const { return spill_ ? spill_->transfers.get() : nullptr; }
  /// Those of single blocks; null where none are read.
  const TransferQueue* block_transfers() const {
    return spill_ ? spill_->block_transfers.get() : nullptr;
  }
  /// Of both.
  TransferCounts transfer_counts() const;
  const PlaceSource* places() const { return spill_ ? spill_->places.get() : nullptr; }

  // Reading back. Holds are counted: the frame of an extent is free again after the last release.
  /// Begins to read an evicted extent, at the latest by the next poll(), so that neighbours in a
  /// file that are fetched together are read together. False where no frame is free, or as many
  /// slots as can be are being read into: release what was fetched before, or wait_for_transfer().
  [[nodiscard]] bool fetch(ExtentId extent, ReadTarget target = ReadTarget::kSlots);
  /// Whether a fetch of the extent would read it into slots, where neighbouring ones are free.
  bool reads_in_place(ExtentId id) const { return reads_in_place(extent(id)); }
  /// Slots whose read nobody wants any more, or did not end in time: they belong to the device
  /// until it ends, and count as taken.
  uint64_t n_lost_slots() const { return n_lost_slots_; }
  /// Waits for the reads of these extents and checks every tag, of all of them in one parallel
  /// region. Errors: LostExtent, for the first one that could not be read rightly, twice;
  /// kCancelled, and they stay held.
  void take(std::span<const ExtentId> extents, ThreadPool& pool);
  void release(ExtentId extent);
  /// Collects transfers that have ended and begins what was fetched; never waits.
  void poll() { collect_writes(); }
  /// Whether take() would not wait for this extent, as of the last poll.
  bool has_arrived(ExtentId id) const;
  /// Waits until a transfer ends. False where none is in flight or none ended in time.
  bool wait_for_transfer();
  /// Whether the disk has let kSilencesMax deadlines pass one after the other.
  bool is_disk_silent();
  /// For whoever cannot go on without a disk that does not answer; `what` says by what that showed.
  Error silent_error(const std::string& what) const;

  // Reading single blocks, for steps that attend chosen ones: of begin_step(ReadGrain::kBlocks),
  // where can_read_blocks() or everything is in DRAM. What was read stays in DRAM slots until they
  // are needed for something else: blocks that were unused for longest go first.
  bool can_read_blocks() const { return block_transfers() != nullptr; }
  /// Begins to read blocks that are in no slot, from the front on, as far as frames for single
  /// blocks are free, for a later pin(). Never waits.
  void begin_blocks(std::span<const BlockId> blocks);
  /// Gives up what was begun and not pinned since. pin() does that by itself where it has no other
  /// frame.
  void drop_begun();
  /// Brings frozen blocks into DRAM slots, where they stay until unpin(): reads what is not there,
  /// as many at a time as there are frames, checks every tag, in parallel where many arrive, and
  /// makes room by giving up blocks that are not pinned. Those that are open count as pinned.
  /// Errors: LostExtent where a block could not be read rightly, twice; kCancelled; kDoesNotFit
  /// where no slot can be given up.
  /// Then none of `blocks` is pinned by this call, and nothing is begun any more.
  void pin(std::span<const BlockId> blocks, ThreadPool& pool);
  /// The halves of pin(), for who uses some blocks while others are on their way: begin_pin() pins,
  /// makes room and begins to read, in the order of `blocks`; finish_pin() waits until some of them
  /// are there (others may be open ones). One pin() at a time: it ends when all are there, or with
  /// unpin(), which is to follow errors of finish_pin().
  void begin_pin(std::span<const BlockId> blocks);
  void finish_pin(std::span<const BlockId> blocks, ThreadPool& pool);
  /// Also of blocks that are still on their way: these are not read any more. What has copies
  /// elsewhere, which are read from now on, leaves DRAM before what was used.
  void unpin(std::span<const BlockId> blocks, bool is_elsewhere = false);
  /// Frozen blocks that DRAM can hold at once: slots that are free or have one.
  uint64_t n_pinnable() const { return pool_.n_free() + n_frozen_slots_; }

  /// Of the packs of extents that were lost, but for those that did not answer: one that was not
  /// forgotten yet, or null.
  std::shared_ptr<const PackReader> first_damaged_pack() const {
    return damaged_packs_.empty() ? nullptr : damaged_packs_.front();
  }
  /// Forgets what first_damaged_pack() gives.
  void forget_damaged_pack() { damaged_packs_.erase(damaged_packs_.begin()); }

  /// Gives up what is in DRAM of the block's extent where a file alone holds the rest of it, so
  /// that all of it can be replaced: a part that stayed would keep a second place in the file.
  void leave_partly_resident(BlockId block);
  /// `lost` gets the bytes and the place of `fresh` and the other way round. Counted where it is a
  /// repair, and not where computing was merely quicker than reading.
  void replace(BlockId lost, BlockId fresh, bool is_repair);

 private:
  /// A pack, past the page cache. An Io keeps its files.
  struct PackFile {
    File file;
    IoFile io{};
    IoFile block_io{};                 // where single blocks are read
    std::pair<uint64_t, uint64_t> id;  // device and number of the file: a name may be given again
    uint64_t n_extents = 0;            // that lie in it
  };
  /// Of one that is being written every block is in DRAM; of a lost one those that are pinned.
  enum class ExtentState : uint8_t { kWriting, kStored, kLost };
  static constexpr uint32_t kNoRead = UINT32_MAX;
  struct Block {
    SlotId slot = kNoSlot;
    uint32_t references = 0;
    ExtentId extent = kNoExtent;
    uint32_t idx = 0;         // in the extent
    uint32_t pins = 0;        // while there are any, it stays in its slot
    uint32_t read = kNoRead;  // of reads_
    uint64_t generation = 0;
  };
  struct Extent {
    ExtentState state = ExtentState::kWriting;
    uint32_t layer = 0;
    uint32_t first_pos = 0;
    uint32_t n_live = 0;      // blocks with references
    uint32_t n_resident = 0;  // of these, in DRAM slots
    uint32_t holds = 0;
    bool is_accepted = false;  // read and every tag right
    bool is_away = false;      // some live block is in no slot
    uint64_t place = 0;
    uint64_t generation = 0;
    uint64_t step = 0;                       // that froze it
    std::vector<BlockId> blocks;             // [n_kv_heads][8]
    std::vector<Hash128> tags;               // as blocks; those of a pack stay in the pack
    std::vector<Hash128> chain;              // [8]
    std::shared_ptr<const PackReader> pack;  // null: in the spill file
    PackFile* pack_file = nullptr;           // where the store has opened it
    uint32_t pack_extent = 0;
    IoFile file{};
    Ticket ticket;
    ReadLease lease;
    SlotId direct = kNoSlot;   // the first of the neighbouring slots that it is read into
    bool is_in_slots = false;  // that read has ended well; its tags are not checked yet
  };
  /// A block that pin() brings into DRAM.
  struct MissingBlock {
    BlockId block = kNoBlock;
    SlotId slot = kNoSlot;  // until the block is there: then it is the block's
  };
  /// A read of one block.
  struct BlockRead {
    BlockId block = kNoBlock;
    uint32_t missing_idx = UINT32_MAX;  // of missing_; none: begun, not pinned
    uint32_t skip_bytes = 0;            // before the block: it is read from an aligned place on
    bool is_second = false;
    bool is_right = false;
    Ticket ticket;
    ReadLease lease;
  };
  /// An extent that take() waits for.
  struct TakenExtent {
    ExtentId id = kNoExtent;
    IoStatus status = IoStatus::kOk;
    uint32_t n_corrupt = 0;
  };
  /// A block of it, which has come.
  struct TakenBlock {
    uint32_t extent_idx = 0;   // of taken_
    uint32_t idx = 0;          // in the extent
    SlotId slot = kNoSlot;     // that it is copied to; none: it stays in its frame
    bool is_in_place = false;  // it has been read into the slot
    bool is_right = false;
  };
  Block& record(BlockId block);
  const Block& record(BlockId block) const;
  Extent& extent(ExtentId id);
  const Extent& extent(ExtentId id) const;
  uint64_t extent_bytes(const Extent& of) const;
  BlockIdentity identity(const Extent& of, uint32_t idx) const;
  ExtentId add_extent(uint32_t layer, size_t n_blocks, size_t n_tags);
  void add_block_file(IoFile file, IoFile block_file);
  bool is_in_use(const PackFile& of) const;
  std::optional<FillLease> wait_for_frame(uint64_t place, uint32_t n_run);
  std::optional<uint64_t> take_place(uint32_t layer, uint32_t first_pos);
  void collect_writes();
  bool take_ended_writes();
  void write_ended(ExtentId id, IoStatus status);
  void forget(ExtentId id);
  void free_if_unused(ExtentId id);
  void evict(ExtentId id);
  bool is_being_written(ExtentId id) const;
  bool evict_extent();
  bool evict_block();
  BlockId unused_block(bool has_last_step);
  bool is_of_last_step(const Extent& of) const { return of.step + 1 >= step_; }
  void set_slot_block(SlotId slot, BlockId frozen);
  void give_slot(BlockId block, SlotId slot);
  void leave_slot(BlockId block);
  void blocks_came(ExtentId id, uint32_t n);
  void blocks_left(ExtentId id, uint32_t n);
  size_t n_before_last_step(const std::vector<ExtentId>& resident) const;
  ExtentId first_victim(bool has_last_step) const;
  ExtentId victim() const;
  IoStatus wait_for_read(Extent& of);
  void list_taken(std::span<const ExtentId> extents);
  void list_taken_blocks(uint32_t extent_idx);
  std::optional<Ticket> begin_extent(Extent& of, ReadTarget target);
  bool reads_in_place(const Extent& of) const;
  std::optional<Ticket> begin_in_place(Extent& of);
  IoStatus wait_for_slots(Extent& of);
  void list_slots(uint32_t extent_idx);
  void drop_in_place(Extent& of);
  void take_back_slots();
  bool wait_for_lost_slots();
  void check_taken(ThreadPool& pool);
  void settle(std::span<TakenBlock> blocks);
  bool is_right(const Extent& of, uint32_t idx, std::span<const std::byte> payload) const;
  std::string lost_cause(const TakenExtent& taken) const;
  [[noreturn]] void lose(ExtentId id, bool has_answered, const std::string& cause);
  void reserve_blocks(size_t n);
  BlockId add_block(const Block& block);
  void count_away(Extent& of);
  void list_missing(std::span<const BlockId> blocks);
  void open_missing_slots();
  bool is_missing(BlockId block) const {
    return block != kNoBlock && record(block).slot == kNoSlot;
  }
  void drop_missing();
  bool begin_read(BlockId block, bool is_second);
  void begin_missing();
  void take_arrived();
  void read_again(uint32_t read_idx, bool has_answered, const std::string& cause);
  void check_arrived(ThreadPool& pool);
  void accept_arrived();
  void wait_for_block();
  void drop_read(uint32_t idx);

  KvLayout layout_;
  Hash128 model_;
  BlockPool pool_;
  std::vector<std::unique_ptr<PackFile>> pack_files_;  // outlive the transfers of spill_
  std::unique_ptr<Spill> spill_;
  std::vector<Block> blocks_;
  std::vector<uint32_t> free_blocks_;
  std::vector<Extent> extents_;
  std::vector<uint32_t> n_extents_;  // per layer, of those that are not free
  std::vector<uint32_t> free_extents_;
  // Per layer those with a block in DRAM, in the order in which the first one came; what the last
  // step froze stands last.
  std::vector<std::vector<ExtentId>> resident_;
  std::vector<uint32_t> first_victims_;  // per layer, or empty
  std::vector<std::pair<ExtentId, Ticket>> writes_;
  bool is_spill_off_ = false;  // after failures that the next write would meet again
  IoStatus last_failure_ = IoStatus::kOk;
  uint64_t n_away_ = 0;
  uint64_t headroom_slots_ = UINT64_MAX;
  std::vector<TakenExtent> taken_;        // by the call of take() at hand
  std::vector<TakenBlock> taken_blocks_;  // of these
  std::vector<BlockId> slot_blocks_;      // by slot: the frozen block in it
  uint64_t n_frozen_slots_ = 0;           // that have one
  std::vector<uint8_t> is_used_;          // by slot: since the clock's hand passed it
  uint32_t clock_hand_ = 0;
  uint64_t n_pins_ = 0;
  uint64_t n_lost_slots_ = 0;
  std::vector<IoFile> block_files_;    // of block_transfers, by those of transfers
  std::vector<MissingBlock> missing_;  // of the pin() at hand
  size_t n_missing_begun_ = 0;         // of these, from the first one on: on their way or there
  size_t n_missing_left_ = 0;          // of these, not there yet
  std::vector<BlockRead> reads_;
  std::vector<uint32_t> arrived_;  // of reads_, ascending
  uint64_t next_generation_ = 1;   // of extents
  uint64_t next_block_generation_ = 1;
  uint64_t step_ = 1;
  ReadGrain grain_ = ReadGrain::kExtents;
  std::vector<std::shared_ptr<const PackReader>> damaged_packs_;
  StoreCounts counts_;
};

}  // namespace strata::tiers
