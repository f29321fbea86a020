// tiers/block_store_blocks.cc - single blocks of evicted extents, for steps that attend some.
// Why: docs/adr/0009-single-blocks.md. A block's tag is checked and its bytes are copied to a slot
// of the arena, so that a frame is free again as soon as its block is there.
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/checked_math.h"
#include "tiers/block_store.h"

namespace strata::tiers {
namespace {

// Blocks of one thread at a time (docs/adr/0009-single-blocks.md). Fewer are checked by the
// caller, who would wait longer for another thread.
constexpr uint64_t kCheckGrain = 64;

}  // namespace

/// False where no frame is free.
bool BlockStore::begin_read(BlockId block, bool is_second) {
  Block& of = record(block);
  const Extent& home = extent(of.extent);
  TransferQueue& transfers = *spill_->block_transfers;
  const IoFile file = block_files_[static_cast<uint32_t>(home.file)];
  const uint64_t alignment = transfers.io().alignment(file);
  const uint64_t offset = home.place + uint64_t{of.idx} * layout_.block_bytes;
  const uint64_t begin = offset / alignment * alignment;
  const uint64_t end = round_up(offset + layout_.block_bytes, alignment);
  auto ticket = transfers.read(file, begin, static_cast<uint32_t>(end - begin),
                               TransferQueue::Start::kAtNextPoll, home.layer);
  if (!ticket) return false;
  of.read = static_cast<uint32_t>(reads_.size());
  reads_.push_back({.block = block,
                    .skip_bytes = static_cast<uint32_t>(offset - begin),
                    .is_second = is_second,
                    .ticket = std::move(*ticket),
                    .lease = {}});
  return true;
}

void BlockStore::drop_read(uint32_t idx) {
  record(reads_[idx].block).read = kNoRead;
  if (idx + 1 < reads_.size()) {
    reads_[idx] = std::move(reads_.back());
    record(reads_[idx].block).read = idx;
  }
  reads_.pop_back();
}

void BlockStore::drop_begun() {
  while (!reads_.empty()) drop_read(static_cast<uint32_t>(reads_.size() - 1));
}

void BlockStore::begin_blocks(std::span<const BlockId> blocks) {
  if (!can_read_blocks()) return;
  spill_->block_transfers->poll();  // frames of what was dropped
  for (const BlockId block : blocks) {
    const Block& of = record(block);
    if (of.slot != kNoSlot || of.read != kNoRead) continue;
    if (extent(of.extent).state == ExtentState::kLost) continue;
    if (!begin_read(block, false)) break;
  }
  spill_->block_transfers->poll();
}

void BlockStore::unpin(std::span<const BlockId> blocks, bool is_elsewhere) {
  drop_missing();
  for (const BlockId block : blocks) {
    Block& of = record(block);
    STRATA_CHECK(of.pins > 0, "block %u is not pinned", static_cast<uint32_t>(block));
    --n_pins_;
    if (--of.pins > 0 || of.slot == kNoSlot) continue;
    is_used_[static_cast<uint32_t>(of.slot)] = is_elsewhere ? 0 : 1;
    if (of.extent == kNoExtent || extent(of.extent).state != ExtentState::kLost) continue;
    leave_slot(block);
    blocks_left(of.extent, 1);
    ++counts_.blocks_evicted;
  }
}

/// Pins the blocks, and lists those that are in no slot.
void BlockStore::list_missing(std::span<const BlockId> blocks) {
  missing_.reserve(blocks.size());
  for (const BlockId block : blocks) {
    Block& of = record(block);
    ++n_pins_;
    if (++of.pins > 1 || of.slot != kNoSlot) continue;
    if (of.read != kNoRead) reads_[of.read].missing_idx = static_cast<uint32_t>(missing_.size());
    missing_.push_back({.block = block});
  }
  n_missing_begun_ = 0;
  n_missing_left_ = missing_.size();
}

/// All of them before anything is read: which block gets which slot, and so who leaves DRAM later,
/// does not depend on the order in which reads end.
void BlockStore::open_missing_slots() {
  const bool has_room = make_room(missing_.size());
  if (!has_room && last_failure_ != IoStatus::kOk)
    throw Error(
        ErrorCode::kIo,
        "memory is full of K and V that could not be written: " + failure_text(last_failure_),
        "--nvme", "free space on the disk, name another one with --nvme, or raise --kv-dram");
  if (!has_room)
    throw Error(ErrorCode::kDoesNotFit,
                "memory does not hold the K and V that a step attends at once", "--kv-dram",
                "raise --kv-dram or --dram, or lower the budget of --attn");
  // Side by side: a run of its own for each block would touch memory for eight of them.
  SlotId previous = kNoSlot;
  for (MissingBlock& missing : missing_) {
    const auto slot = pool_.take(previous);
    STRATA_CHECK(slot.has_value(), "no slot of those made free");
    previous = missing.slot = *slot;
  }
}

void BlockStore::pin(std::span<const BlockId> blocks, ThreadPool& pool) {
  begin_pin(blocks);
  try {
    finish_pin(blocks, pool);
  } catch (...) {
    unpin(blocks);
    throw;
  }
}

void BlockStore::begin_pin(std::span<const BlockId> blocks) {
  STRATA_CHECK(grain_ == ReadGrain::kBlocks, "%zu blocks in a step that reads extents",
               blocks.size());
  STRATA_CHECK(missing_.empty(), "%zu blocks of another pin are missing", n_missing_left_);
  list_missing(blocks);
  if (missing_.empty()) {
    counts_.blocks_pinned += blocks.size();
    return;
  }
  STRATA_CHECK(can_read_blocks(), "%zu blocks without a way to read them", missing_.size());
  try {
    for (const MissingBlock& missing : missing_)
      if (const ExtentId id = extent_of(missing.block); extent(id).state == ExtentState::kLost)
        lose(id, true, kLostBefore);
    open_missing_slots();
    begin_missing();
    spill_->block_transfers->poll();
  } catch (...) {
    unpin(blocks);
    throw;
  }
  counts_.blocks_pinned += blocks.size();
}

void BlockStore::finish_pin(std::span<const BlockId> blocks, ThreadPool& pool) {
  try {
    for (const BlockId block : blocks)
      while (is_missing(block)) {
        STRATA_CHECK(record(block).pins > 0, "block %u is not pinned",
                     static_cast<uint32_t>(block));
        begin_missing();
        spill_->block_transfers->poll();
        take_arrived();
        if (arrived_.empty()) {
          wait_for_block();
          continue;
        }
        check_arrived(pool);
        accept_arrived();
      }
    if (n_missing_left_ > 0) {  // into the frames that came free, while what is here is used
      begin_missing();
      spill_->block_transfers->poll();
    }
  } catch (...) {
    drop_missing();
    throw;
  }
  if (n_missing_left_ == 0) missing_.clear();
}

/// Ends the pin() at hand: what has not come is not read any more, nor what was begun for a later
/// one.
void BlockStore::drop_missing() {
  if (missing_.empty()) return;
  drop_begun();
  for (const MissingBlock& missing : missing_)
    if (missing.slot != kNoSlot && !is_resident(missing.block)) pool_.release(missing.slot);
  missing_.clear();
  n_missing_left_ = 0;
}

/// As far as there are frames; what was begun before the call may arrive out of turn.
void BlockStore::begin_missing() {
  for (; n_missing_begun_ < missing_.size(); ++n_missing_begun_) {
    const BlockId block = missing_[n_missing_begun_].block;
    if (record(block).read != kNoRead || is_resident(block)) continue;
    if (!begin_read(block, false)) return;
    reads_.back().missing_idx = static_cast<uint32_t>(n_missing_begun_);
  }
}

/// Takes the reads of missing blocks that have ended, and repeats those that failed.
void BlockStore::take_arrived() {
  arrived_.clear();
  for (uint32_t i = 0; i < reads_.size(); ++i) {
    BlockRead& read = reads_[i];
    if (read.missing_idx == UINT32_MAX || !spill_->block_transfers->is_done(read.ticket)) continue;
    const IoStatus status = spill_->block_transfers->take_read(std::move(read.ticket), read.lease);
    if (status == IoStatus::kOk) {
      arrived_.push_back(i);
    } else {
      read_again(i, status != IoStatus::kTimedOut, failure_text(status));
    }
  }
}

/// A second read tells a passing error (a cable, a bus) from a lasting one; one that timed out
/// would wait as long again.  Errors: LostExtent.
void BlockStore::read_again(uint32_t read_idx, bool has_answered, const std::string& cause) {
  BlockRead& read = reads_[read_idx];
  read.lease = ReadLease();
  if (read.is_second || !has_answered) lose(extent_of(read.block), has_answered, cause);
  ++counts_.retries;
  const uint32_t missing_idx = read.missing_idx;
  // Its frame has just come free.
  STRATA_CHECK(begin_read(read.block, true), "no frame of %u for a second read",
               spill_->block_transfers->n_frames());
  reads_.back().missing_idx = missing_idx;
  reads_[read_idx] = std::move(reads_.back());
  reads_.pop_back();
  record(reads_[read_idx].block).read = read_idx;
}

void BlockStore::check_arrived(ThreadPool& pool) {
  pool.for_each(arrived_.size(), kCheckGrain, [&](uint64_t begin, uint64_t end, uint32_t) {
    for (uint64_t i = begin; i < end; ++i) {
      BlockRead& read = reads_[arrived_[i]];
      const Block& of = record(read.block);
      const auto payload = read.lease.bytes().subspan(read.skip_bytes, layout_.block_bytes);
      read.is_right = is_right(extent(of.extent), of.idx, payload);
      if (read.is_right)
        std::memcpy(pool_.address(missing_[read.missing_idx].slot), payload.data(), payload.size());
    }
  });
}

void BlockStore::accept_arrived() {
  while (!arrived_.empty()) {
    const uint32_t idx = arrived_.back();  // downwards: dropping a read moves the last one
    arrived_.pop_back();
    const BlockRead& read = reads_[idx];
    if (!read.is_right) {
      ++counts_.corrupt_blocks;
      read_again(idx, true, "a block came back with other bytes");
      continue;
    }
    ++counts_.blocks_read;
    --n_missing_left_;
    blocks_came(extent_of(read.block), 1);
    give_slot(read.block, missing_[read.missing_idx].slot);
  }
}

/// Waits until something ends. Where nothing of this call is on its way, what was begun for a later
/// one makes room. Errors: kCancelled; LostExtent where no frame is left.
void BlockStore::wait_for_block() {
  TransferQueue& transfers = *spill_->block_transfers;
  const auto is_wanted = [](const BlockRead& read) { return read.missing_idx != UINT32_MAX; };
  const bool is_on_its_way = std::ranges::any_of(reads_, is_wanted);
  if (!is_on_its_way) {
    drop_begun();
    if (transfers.n_free() > 0) return;
  }
  if (transfers.wait_any() || is_on_its_way || transfers.n_free() > 0) return;
  STRATA_CHECK(n_missing_begun_ < missing_.size(), "%zu blocks, all begun", missing_.size());
  lose(extent_of(missing_[n_missing_begun_].block), false, failure_text(IoStatus::kTimedOut));
}

}  // namespace strata::tiers
