// tiers/block_store_read.cc - the reading side of the block store.
#include <atomic>
#include <cstring>
#include <string>

#include "base/check.h"
#include "tiers/block_store.h"

namespace strata::tiers {

std::string failure_text(IoStatus status) {
  return std::string(io_status_name(status)) + " (" + std::string(io_status_cause(status)) + ")";
}

bool BlockStore::fetch(ExtentId id) {
  Extent& of = extent(id);
  STRATA_CHECK(of.state != ExtentState::kWriting, "extent %u is being written",
               static_cast<uint32_t>(id));
  STRATA_CHECK(of.n_live > 0, "extent %u has no block", static_cast<uint32_t>(id));
  if (of.holds == 0 && of.is_away && of.state == ExtentState::kStored) {
    const auto bytes = static_cast<uint32_t>(extent_bytes(of));
    auto ticket = spill_->transfers->read(of.file, of.place, bytes);
    if (!ticket) {
      // A frame that this frees is used at once: no later wait would have an end to report.
      collect_writes();
      ticket = spill_->transfers->read(of.file, of.place, bytes);
    }
    if (!ticket) return false;
    of.ticket = std::move(*ticket);
  }
  ++of.holds;
  return true;
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
  free_if_unused(id);
}

bool BlockStore::wait_for_transfer() {
  if (take_ended_writes()) return true;
  const bool ended = spill_->transfers->wait_any();
  return take_ended_writes() || ended;
}

IoStatus BlockStore::wait_for_read(Extent& of) {
  if (!of.ticket.is_held()) {
    auto ticket =
        spill_->transfers->read(of.file, of.place, static_cast<uint32_t>(extent_bytes(of)));
    if (!ticket) return IoStatus::kNoMemory;
    of.ticket = std::move(*ticket);
  }
  return spill_->transfers->take_read(std::move(of.ticket), of.lease);
}

bool BlockStore::is_right(const Extent& of, uint32_t idx,
                          std::span<const std::byte> payload) const {
  if (of.pack)
    return of.pack->is_block(of.layer, idx / kExtentBlocks,
                             of.pack_extent * kExtentBlocks + idx % kExtentBlocks, payload);
  return block_tag(identity(of, idx), payload) == of.tags[idx];
}

/// Checks every tag, and copies the blocks into the opened slots where there are some.
uint32_t BlockStore::count_corrupt(const Extent& of, ThreadPool& pool) const {
  std::atomic<uint32_t> n_corrupt = 0;
  const std::span<const std::byte> all = of.lease.bytes();
  pool.for_each(of.blocks.size(), 2, [&](uint64_t begin, uint64_t end, uint32_t) {
    for (uint64_t i = begin; i < end; ++i) {
      const auto idx = static_cast<uint32_t>(i);
      if (of.blocks[idx] == kNoBlock) continue;
      const auto payload = all.subspan(i * layout_.block_bytes, layout_.block_bytes);
      if (!is_right(of, idx, payload)) n_corrupt.fetch_add(1, std::memory_order_relaxed);
      if (!opened_slots_.empty() && opened_slots_[idx] != kNoSlot)
        std::memcpy(pool_.address(opened_slots_[idx]), payload.data(), payload.size());
    }
  });
  return n_corrupt.load(std::memory_order_relaxed);
}

/// Slots for every block of an extent that has none, so that all of it is in DRAM from now on;
/// false where they are needed for what the next step opens.
bool BlockStore::open_slots(const Extent& of) {
  opened_slots_.clear();
  const uint32_t n_free = pool_.n_free();
  if (n_free < headroom_slots_ || n_free - headroom_slots_ < of.n_live - of.n_resident)
    return false;
  SlotId previous = kNoSlot;
  for (uint32_t idx = 0; idx < of.blocks.size(); ++idx) {
    if (idx % kExtentBlocks == 0) previous = kNoSlot;
    const BlockId block = of.blocks[idx];
    const bool is_missing = block != kNoBlock && !is_resident(block);
    if (is_missing) previous = *pool_.take(previous);
    opened_slots_.push_back(is_missing ? previous : kNoSlot);
  }
  return true;
}

/// Gives the opened slots to the blocks, or back where the bytes were not right.
void BlockStore::settle(ExtentId id, bool is_right) {
  Extent& of = extent(id);
  for (uint32_t idx = 0; idx < of.blocks.size(); ++idx) {
    if (opened_slots_[idx] == kNoSlot) continue;
    if (is_right) {
      give_slot(of.blocks[idx], opened_slots_[idx]);
    } else {
      pool_.release(opened_slots_[idx]);
    }
  }
  opened_slots_.clear();
  if (!is_right) return;
  blocks_came(id, of.n_live - of.n_resident);
  ++counts_.extents_settled;
}

void BlockStore::take_one(ExtentId id, ThreadPool& pool) {
  Extent& of = extent(id);
  STRATA_CHECK(of.holds > 0, "extent %u is not held", static_cast<uint32_t>(id));
  if (of.is_accepted || !of.is_away) return;
  std::string cause = kLostBefore;
  bool has_answered = true;
  // A second read tells a passing error (a cable, a bus) from a lasting one.
  for (uint32_t attempt = 0; of.state == ExtentState::kStored && attempt < 2; ++attempt) {
    if (attempt > 0) ++counts_.retries;
    const IoStatus status = wait_for_read(of);
    if (status != IoStatus::kOk) {
      cause = failure_text(status);
      has_answered = status != IoStatus::kTimedOut;
      if (!has_answered) break;  // the next one would wait as long
      continue;
    }
    ++counts_.extents_read;
    const bool settles = open_slots(of);
    const uint32_t n_corrupt = count_corrupt(of, pool);
    if (settles) settle(id, n_corrupt == 0);
    if (n_corrupt == 0) {
      of.is_accepted = true;
      return;
    }
    counts_.corrupt_blocks += n_corrupt;
    cause = std::to_string(n_corrupt) + " of its blocks came back with other bytes";
    of.lease = ReadLease();
  }
  lose(id, has_answered, cause);
}

/// Its blocks are computed again together, so those that are in DRAM leave it where they can.
void BlockStore::lose(ExtentId id, bool has_answered, const std::string& cause) {
  Extent& of = extent(id);
  if (of.state == ExtentState::kStored) {
    ++counts_.lost_extents;
    if (of.pack && has_answered) damaged_packs_.push_back(of.pack);
    if (of.n_resident > 0) evict(id);
    std::erase(resident_[of.layer], id);
  }
  of.state = ExtentState::kLost;
  throw LostExtent(id, of.layer, of.first_pos, cause);
}

void BlockStore::take(std::span<const ExtentId> extents, ThreadPool& pool) {
  for (const ExtentId id : extents) take_one(id, pool);
}

}  // namespace strata::tiers
