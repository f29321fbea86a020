// tiers/block_store_read.cc - the reading side of the block store.
//
// An extent is read into a frame, from which its blocks are copied to slots where there is room, or
// straight into the slots that they stay in. An extent of a pack lies in its file as it does in
// neighbouring runs of slots: for each KV head eight blocks, block_bytes apart. The slots are taken
// when the read begins and are the transfer's until it ends: nobody else has them meanwhile, also
// where the disk does not answer, or nobody wants any more what a device has begun
// (TransferQueue::take_back).
// Tags are checked in the slots, before any block is said to be there.
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/checked_math.h"
#include "tiers/block_store.h"

namespace strata::tiers {
namespace {

constexpr uint64_t kBlocksPerPiece = 4;  // of a parallel region over blocks that have come

}  // namespace

std::string failure_text(IoStatus status) {
  return std::string(io_status_name(status)) + " (" + std::string(io_status_cause(status)) + ")";
}

bool BlockStore::fetch(ExtentId id, ReadTarget target) {
  Extent& of = extent(id);
  STRATA_CHECK(of.state != ExtentState::kWriting, "extent %u is being written",
               static_cast<uint32_t>(id));
  STRATA_CHECK(of.n_live > 0, "extent %u has no block", static_cast<uint32_t>(id));
  if (of.holds == 0 && of.is_away && of.state == ExtentState::kStored) {
    auto ticket = begin_extent(of, target);
    if (!ticket) {
      // A frame that this frees is used at once: no later wait would have an end to report.
      collect_writes();
      ticket = begin_extent(of, target);
    }
    if (!ticket) return false;
    of.ticket = std::move(*ticket);
  }
  ++of.holds;
  return true;
}

/// Nothing where there is no frame, or no room for one more read into slots.
std::optional<Ticket> BlockStore::begin_extent(Extent& of, ReadTarget target) {
  if (target == ReadTarget::kSlots && reads_in_place(of)) {
    const TransferQueue& transfers = *spill_->transfers;
    const bool is_full = transfers.n_lent_free() == 0;
    // What never comes back is not waited for.
    if (is_full && transfers.n_lent_quarantined() < transfers.n_lent()) return std::nullopt;
    if (!is_full)
      if (auto ticket = begin_in_place(of)) return ticket;
  }
  return spill_->transfers->read(of.file, of.place, static_cast<uint32_t>(extent_bytes(of)),
                                 TransferQueue::Start::kAtNextPoll, of.layer);
}

/// Whether all of an extent is wanted in DRAM, has room there, and can be read without its padding:
/// a small one is better joined with its neighbours in a file than made without a copy.
/// Where there is a spill file, what is in DRAM follows from the steps alone, so that slots are
/// taken when an extent has come, in the order of the steps.
bool BlockStore::reads_in_place(const Extent& of) const {
  if (has_spill() || spill_->transfers->n_lent() == 0 || !of.pack) return false;
  if (of.n_live < of.blocks.size() || of.n_resident > 0 || !can_settle(of.n_live)) return false;
  const uint64_t bytes = of.blocks.size() * uint64_t{layout_.block_bytes};
  const uint32_t alignment = spill_->transfers->io().alignment(of.file);
  const bool is_aligned =
      bytes % alignment == 0 && BlockPool::kRunSlots * layout_.block_bytes % alignment == 0;
  return is_aligned && (bytes == extent_bytes(of) || bytes >= kSmallTransferBytes);
}

/// Nothing where no neighbouring runs are free.
std::optional<Ticket> BlockStore::begin_in_place(Extent& of) {
  static_assert(BlockPool::kRunSlots == kExtentBlocks);
  const auto n_runs = static_cast<uint32_t>(of.blocks.size() / kExtentBlocks);
  const auto first = pool_.take_runs(n_runs);
  if (!first) return std::nullopt;
  of.direct = *first;
  auto ticket =
      spill_->transfers->read_to({pool_.address(*first), of.blocks.size() * layout_.block_bytes},
                                 of.file, of.place, TransferQueue::Start::kAtNextPoll, of.layer);
  STRATA_CHECK(ticket.has_value(), "%u reads into slots at once", spill_->transfers->n_lent());
  return ticket;
}

/// Slots of a read that failed are the device's until it gives them back.
IoStatus BlockStore::wait_for_slots(Extent& of) {
  const IoStatus status = spill_->transfers->take_lent(std::move(of.ticket));
  of.is_in_slots = status == IoStatus::kOk;
  if (of.is_in_slots) return status;
  of.direct = kNoSlot;
  n_lost_slots_ += of.blocks.size();
  take_back_slots();
  return status;
}

/// The blocks of an extent that has come into its slots; slots of what nobody wants, or has since
/// come otherwise, are free again.
void BlockStore::list_slots(uint32_t extent_idx) {
  Extent& of = extent(taken_[extent_idx].id);
  const auto first = static_cast<uint32_t>(of.direct);
  for (uint32_t idx = 0; idx < of.blocks.size(); ++idx) {
    const auto slot = static_cast<SlotId>(first + idx);
    if (of.blocks[idx] == kNoBlock || is_resident(of.blocks[idx])) {
      pool_.release(slot);
      continue;
    }
    taken_blocks_.push_back(
        {.extent_idx = extent_idx, .idx = idx, .slot = slot, .is_in_place = true});
  }
  of.direct = kNoSlot;
  of.is_in_slots = false;
}

/// Of an extent that nobody holds any more.
void BlockStore::drop_in_place(Extent& of) {
  if (of.direct == kNoSlot) return;
  const auto first = static_cast<uint32_t>(of.direct);
  of.direct = kNoSlot;
  if (std::exchange(of.is_in_slots, false)) {
    for (uint32_t idx = 0; idx < of.blocks.size(); ++idx)
      pool_.release(static_cast<SlotId>(first + idx));
    return;
  }
  n_lost_slots_ += of.blocks.size();  // its ticket was dropped
  take_back_slots();
}

/// Frees the slots that no device owns any more.
void BlockStore::take_back_slots() {
  for (;;) {
    const std::span<std::byte> memory = spill_->transfers->take_back();
    if (memory.empty()) return;
    const auto first = static_cast<uint32_t>(pool_.slot_at(memory.data()));
    const auto n = static_cast<uint32_t>(memory.size() / layout_.block_bytes);
    n_lost_slots_ -= n;
    for (uint32_t i = 0; i < n; ++i) pool_.release(static_cast<SlotId>(first + i));
  }
}

/// Waits until slots that nobody wants come back. False where none will: what did not end in time
/// may never end.
bool BlockStore::wait_for_lost_slots() {
  return n_lost_slots_ > 0 && spill_->transfers->has_dropped_lent() && wait_for_transfer();
}

uint64_t BlockStore::n_missing(std::span<const ExtentId> extents) const {
  uint64_t n = 0;
  for (const ExtentId id : extents) n += extent(id).n_live - extent(id).n_resident;
  return n;
}

bool BlockStore::has_arrived(ExtentId id) const {
  const Extent& of = extent(id);
  return !of.ticket.is_held() || spill_->transfers->is_done(of.ticket);
}

void BlockStore::release(ExtentId id) {
  Extent& of = extent(id);
  STRATA_CHECK(of.holds > 0, "extent %u is not held", static_cast<uint32_t>(id));
  if (--of.holds > 0) return;
  of.is_accepted = false;
  of.ticket = Ticket();
  of.lease = ReadLease();
  drop_in_place(of);
  free_if_unused(id);
}

bool BlockStore::wait_for_transfer() {
  if (take_ended_writes()) return true;
  const bool ended = spill_->transfers->wait_any();
  take_back_slots();
  return take_ended_writes() || ended;
}

IoStatus BlockStore::read_pack(IoFile file, uint64_t offset, std::span<std::byte> out) {
  TransferQueue& transfers = *spill_->transfers;
  while (!out.empty()) {
    const uint64_t n = std::min<uint64_t>(out.size(), transfers.frame_bytes());
    const auto bytes = static_cast<uint32_t>(round_up(n, kPlaceAlignment));
    auto ticket = transfers.read(file, offset, bytes);
    for (; !ticket; ticket = transfers.read(file, offset, bytes))
      if (!wait_for_transfer()) return IoStatus::kTimedOut;
    ReadLease lease;
    const IoStatus status = transfers.take_read(std::move(*ticket), lease);
    if (status != IoStatus::kOk) return status;
    std::memcpy(out.data(), lease.bytes().data(), n);
    out = out.subspan(n);
    offset += n;
  }
  return IoStatus::kOk;
}

IoStatus BlockStore::wait_for_read(Extent& of) {
  // Of a take() that was stopped behind it.
  if (of.lease.is_held() || of.is_in_slots) return IoStatus::kOk;
  if (!of.ticket.is_held()) {
    auto ticket = begin_extent(of, ReadTarget::kFrame);
    if (!ticket) ticket = begin_extent(of, ReadTarget::kSlots);
    if (!ticket) return IoStatus::kNoMemory;
    of.ticket = std::move(*ticket);
  }
  if (of.direct != kNoSlot) return wait_for_slots(of);
  return spill_->transfers->take_read(std::move(of.ticket), of.lease);
}

bool BlockStore::is_right(const Extent& of, uint32_t idx,
                          std::span<const std::byte> payload) const {
  if (of.pack)
    return of.pack->is_block(of.layer, idx / kExtentBlocks,
                             of.pack_extent * kExtentBlocks + idx % kExtentBlocks, payload);
  return block_tag(identity(of, idx), payload) == of.tags[idx];
}

/// Waits for the reads of the extents that are in no slot and not accepted yet.
void BlockStore::list_taken(std::span<const ExtentId> extents) {
  taken_.clear();
  for (const ExtentId id : extents) {
    Extent& of = extent(id);
    STRATA_CHECK(of.holds > 0, "extent %u is not held", static_cast<uint32_t>(id));
    const bool is_listed = std::ranges::find(taken_, id, &TakenExtent::id) != taken_.end();
    if (of.is_accepted || !of.is_away || is_listed) continue;
    const bool is_stored = of.state == ExtentState::kStored;
    taken_.push_back({.id = id, .status = is_stored ? wait_for_read(of) : IoStatus::kOther});
  }
}

/// The blocks of an extent whose bytes have come, and slots for those that have none, so that all
/// of it is in DRAM from now on; no slots where they are needed for what the next step opens.
void BlockStore::list_taken_blocks(uint32_t extent_idx) {
  const Extent& of = extent(taken_[extent_idx].id);
  if (of.is_in_slots) return list_slots(extent_idx);
  if (!of.lease.is_held()) return;
  const bool settles = can_settle(of.n_live - of.n_resident);
  SlotId previous = kNoSlot;
  for (uint32_t idx = 0; idx < of.blocks.size(); ++idx) {
    if (idx % kExtentBlocks == 0) previous = kNoSlot;
    const BlockId block = of.blocks[idx];
    if (block == kNoBlock) continue;
    TakenBlock taken{.extent_idx = extent_idx, .idx = idx};
    if (settles && !is_resident(block)) taken.slot = previous = *pool_.take(previous);
    taken_blocks_.push_back(taken);
  }
}

/// Checks every tag of the listed blocks, copies those of frames into their slots, and accepts the
/// extents that are right. Slots of others are free again.
void BlockStore::check_taken(ThreadPool& pool) {
  pool.for_each(taken_blocks_.size(), kBlocksPerPiece, [&](uint64_t begin, uint64_t end, uint32_t) {
    for (TakenBlock& block : std::span(taken_blocks_).subspan(begin, end - begin)) {
      const Extent& of = extent(taken_[block.extent_idx].id);
      const std::byte* const bytes =
          block.is_in_place ? pool_.address(block.slot)
                            : of.lease.bytes().data() + uint64_t{block.idx} * layout_.block_bytes;
      block.is_right = is_right(of, block.idx, {bytes, layout_.block_bytes});
      if (block.slot != kNoSlot && !block.is_in_place)
        std::memcpy(pool_.address(block.slot), bytes, layout_.block_bytes);
    }
  });
  for (auto first = taken_blocks_.begin(); first != taken_blocks_.end();) {
    const auto end = std::find_if(first, taken_blocks_.end(), [&](const TakenBlock& block) {
      return block.extent_idx != first->extent_idx;
    });
    settle({first, end});
    first = end;
  }
}

/// Of one extent.
void BlockStore::settle(std::span<TakenBlock> blocks) {
  TakenExtent& taken = taken_[blocks.front().extent_idx];
  Extent& of = extent(taken.id);
  ++counts_.extents_read;
  taken.n_corrupt = static_cast<uint32_t>(std::ranges::count(blocks, false, &TakenBlock::is_right));
  counts_.corrupt_blocks += taken.n_corrupt;
  of.is_accepted = taken.n_corrupt == 0;
  bool has_settled = false;
  bool is_in_place = false;
  for (const TakenBlock& block : blocks) {
    if (block.slot == kNoSlot) continue;
    is_in_place = block.is_in_place;
    if (of.is_accepted) {
      give_slot(of.blocks[block.idx], block.slot);
      has_settled = true;
    } else {
      pool_.release(block.slot);
    }
  }
  if (!of.is_accepted) of.lease = ReadLease();
  if (!has_settled) return;
  blocks_came(taken.id, of.n_live - of.n_resident);
  ++counts_.extents_settled;
  if (is_in_place) ++counts_.extents_in_place;
}

void BlockStore::take(std::span<const ExtentId> extents, ThreadPool& pool) {
  list_taken(extents);
  taken_blocks_.clear();
  for (uint32_t i = 0; i < taken_.size(); ++i) list_taken_blocks(i);
  check_taken(pool);
  // A second read tells a passing error (a cable, a bus) from a lasting one.
  for (uint32_t i = 0; i < taken_.size(); ++i) {
    const ExtentId id = taken_[i].id;
    if (extent(id).is_accepted) continue;
    // The next read of what timed out would wait as long.
    if (extent(id).state == ExtentState::kStored && taken_[i].status != IoStatus::kTimedOut) {
      ++counts_.retries;
      taken_[i].status = wait_for_read(extent(id));
      taken_blocks_.clear();
      list_taken_blocks(i);
      check_taken(pool);
    }
    const IoStatus status = taken_[i].status;
    const bool has_answered = status != IoStatus::kTimedOut && status != IoStatus::kNoMemory;
    if (!extent(id).is_accepted) lose(id, has_answered, lost_cause(taken_[i]));
  }
}

bool BlockStore::is_disk_silent() {
  if (spill_ == nullptr) return false;
  for (const auto* queue : {&spill_->transfers, &spill_->block_transfers}) {
    if (*queue == nullptr) continue;
    (*queue)->poll();  // a late answer is one
    if ((*queue)->n_silences() >= kSilencesMax) return true;
  }
  return false;
}

Error BlockStore::silent_error(const std::string& what) const {
  return Error(ErrorCode::kIo, what + ": the disk does not answer",
               has_spill() ? "spill file" : "saved contexts",
               std::string("look at the disk (dmesg), or name another one with ") +
                   (has_spill() ? "--nvme" : "--session-dir"));
}

std::string BlockStore::lost_cause(const TakenExtent& taken) const {
  if (extent(taken.id).state == ExtentState::kLost) return kLostBefore;
  if (taken.status != IoStatus::kOk) return failure_text(taken.status);
  return std::to_string(taken.n_corrupt) + " of its blocks came back with other bytes";
}

/// Its blocks are computed again together, so those that are in DRAM leave it where they can.
void BlockStore::lose(ExtentId id, bool has_answered, const std::string& cause) {
  Extent& of = extent(id);
  if (of.state == ExtentState::kStored) {
    ++counts_.lost_extents;
    const bool is_known = std::ranges::find(damaged_packs_, of.pack) != damaged_packs_.end();
    if (of.pack && has_answered && !is_known) damaged_packs_.push_back(of.pack);
    if (of.n_resident > 0) evict(id);
    std::erase(resident_[of.layer], id);
  }
  of.state = ExtentState::kLost;
  throw LostExtent(id, of.layer, of.first_pos, cause);
}

}  // namespace strata::tiers
