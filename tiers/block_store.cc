#include "tiers/block_store.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/room_for.h"

namespace strata::tiers {
namespace {

uint32_t number(BlockId block) { return static_cast<uint32_t>(block); }
uint32_t number(ExtentId extent) { return static_cast<uint32_t>(extent); }
uint32_t number(IoFile file) { return static_cast<uint32_t>(file); }

constexpr uint64_t kWriteFailuresMax = 16;  // of requests; then the disk is not written any more

/// A failure that the next write would meet as well.
bool is_lasting(IoStatus status) {
  return status == IoStatus::kDeviceGone || status == IoStatus::kNotPermitted ||
         status == IoStatus::kMisaligned;
}

/// A failure that says nothing about the place: another write may succeed there. A device error
/// may come again, and a write that timed out may still land.
bool keeps_place(IoStatus status) {
  return status == IoStatus::kNoSpace || status == IoStatus::kNoMemory;
}

}  // namespace

LostExtent::LostExtent(ExtentId extent, uint32_t layer, uint32_t first_pos,
                       const std::string& cause)
    : Error(ErrorCode::kIo,
            "KV of layer " + std::to_string(layer) + ", positions " + std::to_string(first_pos) +
                " to " + std::to_string(first_pos + kExtentPositions - 1) +
                " could not be read back: " + cause,
            "spill file", "look at the disk (dmesg, smartctl) or name another one with --nvme"),
      extent_(extent),
      layer_(layer),
      first_pos_(first_pos) {}

BlockStore::BlockStore(const KvLayout& layout, uint32_t n_layers, uint64_t dram_bytes,
                       const Hash128& model, std::unique_ptr<Spill> spill)
    : layout_(layout),
      model_(model),
      pool_(dram_bytes, layout.block_bytes),
      spill_(std::move(spill)),
      n_extents_(n_layers),
      resident_(n_layers) {
  blocks_.reserve(pool_.n_slots());
  free_blocks_.reserve(pool_.n_slots());  // a windowed layer lets go of blocks in decode steps
  slot_blocks_.resize(pool_.n_slots(), kNoBlock);
  is_used_.resize(pool_.n_slots(), 0);
  if (spill_) {
    const TransferQueue& transfers = *spill_->transfers;
    taken_.reserve(transfers.n_operations());
    taken_blocks_.reserve(transfers.n_operations() *
                          (transfers.frame_bytes() / layout.block_bytes));
  }
  if (!can_read_blocks()) return;
  reads_.reserve(spill_->block_transfers->n_frames() + size_t{1});  // one is being repeated
  arrived_.reserve(reads_.capacity());
  if (spill_->places) add_block_file(spill_->file, spill_->block_file);
}

/// Waits for nothing and looks at nothing: a ring is its first user's thread's alone. Slots that a
/// device may still write are not given back to the system.
BlockStore::~BlockStore() {
  if (spill_ && spill_->transfers->has_lent_memory()) pool_.abandon_memory();
}

void BlockStore::set_cancel(const std::atomic<bool>* flag) {
  if (!spill_) return;
  spill_->transfers->set_cancel(flag);
  if (spill_->block_transfers) spill_->block_transfers->set_cancel(flag);
}

TransferCounts BlockStore::transfer_counts() const {
  TransferCounts counts;
  if (spill_) counts += spill_->transfers->counts();
  if (can_read_blocks()) counts += spill_->block_transfers->counts();
  return counts;
}

BlockStore::Block& BlockStore::record(BlockId block) {
  STRATA_CHECK(number(block) < blocks_.size(), "block %u of %zu", number(block), blocks_.size());
  return blocks_[number(block)];
}

const BlockStore::Block& BlockStore::record(BlockId block) const {
  return const_cast<BlockStore*>(this)->record(block);
}

BlockStore::Extent& BlockStore::extent(ExtentId id) {
  STRATA_CHECK(number(id) < extents_.size(), "extent %u of %zu", number(id), extents_.size());
  return extents_[number(id)];
}

const BlockStore::Extent& BlockStore::extent(ExtentId id) const {
  return const_cast<BlockStore*>(this)->extent(id);
}

/// Room for n blocks more: neither adding nor releasing them can fail from here on.
void BlockStore::reserve_blocks(size_t n) {
  make_room_for(blocks_, blocks_.size() + n - std::min(n, free_blocks_.size()));
  free_blocks_.reserve(blocks_.capacity());
}

std::optional<BlockId> BlockStore::open_block(BlockId previous) {
  reserve_blocks(1);
  const auto slot = pool_.take(previous == kNoBlock ? kNoSlot : record(previous).slot);
  if (!slot) return std::nullopt;
  return add_block({.slot = *slot, .references = 1});
}

BlockId BlockStore::add_block(const Block& block) {
  auto id = static_cast<uint32_t>(blocks_.size());
  if (free_blocks_.empty()) {
    blocks_.push_back(block);
  } else {
    id = free_blocks_.back();
    free_blocks_.pop_back();
    blocks_[id] = block;
  }
  blocks_[id].generation = next_block_generation_++;
  return static_cast<BlockId>(id);
}

void BlockStore::add_reference(BlockId block) {
  STRATA_CHECK(references(block) > 0, "block %u is free", number(block));
  ++record(block).references;
}

uint32_t BlockStore::references(BlockId block) const { return record(block).references; }

void BlockStore::release(BlockId block) {
  Block& of = record(block);
  STRATA_CHECK(of.references > 0, "block %u is free", number(block));
  if (--of.references > 0) return;
  STRATA_CHECK(of.pins == 0, "block %u is pinned", number(block));
  const ExtentId home = of.extent;
  const bool is_resident = of.slot != kNoSlot;
  if (is_resident) leave_slot(block);
  if (of.read != kNoRead) drop_read(of.read);
  if (home != kNoExtent) {
    Extent& from = extent(home);
    from.blocks[of.idx] = kNoBlock;
    --from.n_live;
    blocks_left(home, is_resident ? 1 : 0);
  }
  of = {};
  free_blocks_.push_back(number(block));
  if (home != kNoExtent) free_if_unused(home);
}

std::byte* BlockStore::open_bytes(BlockId block) {
  const Block& of = record(block);
  STRATA_CHECK(of.extent == kNoExtent && of.slot != kNoSlot, "block %u is frozen", number(block));
  return pool_.address(of.slot);
}

bool BlockStore::is_readable(BlockId block) const {
  const Block& of = record(block);
  return of.slot != kNoSlot || (of.extent != kNoExtent && extent(of.extent).is_accepted);
}

const std::byte* BlockStore::bytes(BlockId block) const {
  const Block& of = record(block);
  if (of.slot != kNoSlot) return pool_.address(of.slot);
  STRATA_CHECK(is_readable(block), "block %u is neither in DRAM nor read", number(block));
  return extent(of.extent).lease.bytes().data() + uint64_t{of.idx} * layout_.block_bytes;
}

uint64_t BlockStore::extent_bytes(const Extent& of) const {
  return round_up(of.blocks.size() * uint64_t{layout_.block_bytes}, kPlaceAlignment);
}

BlockIdentity BlockStore::identity(const Extent& of, uint32_t idx) const {
  const uint32_t block = idx % kExtentBlocks;
  return {.model = model_,
          .chain = of.chain[block],
          .layer = of.layer,
          .kv_head = idx / kExtentBlocks,
          .first_pos = of.first_pos + block * kBlockPositions,
          .n_positions = kBlockPositions,
          .k_codec = layout_.k_codec,
          .v_codec = layout_.v_codec,
          .generation = of.generation};
}

/// Neither filling it in, taking its blocks into DRAM nor forgetting it can fail from here on.
ExtentId BlockStore::add_extent(uint32_t layer, size_t n_blocks, size_t n_tags) {
  make_room_for(resident_[layer], n_extents_[layer] + size_t{1});
  if (free_extents_.empty()) {
    make_room_for(free_extents_, extents_.size() + 1);
    extents_.emplace_back();
    free_extents_.push_back(static_cast<uint32_t>(extents_.size() - 1));
  }
  const uint32_t id = free_extents_.back();
  Extent& of = extents_[id];
  of.blocks.reserve(n_blocks);
  of.tags.reserve(n_tags);
  of.chain.reserve(n_tags > 0 ? kExtentBlocks : 0);
  free_extents_.pop_back();
  ++n_extents_[layer];
  of.layer = layer;
  return static_cast<ExtentId>(id);
}

/// For an extent that is written to this place, the first of a run: it waits for as many frames as
/// are written together while writes may still free some.
std::optional<FillLease> BlockStore::wait_for_frame(uint64_t place, uint32_t n_run) {
  TransferQueue& transfers = *spill_->transfers;
  for (;;) {
    if (auto frame = transfers.take_frame_of_run(spill_->file, place, n_run)) return frame;
    collect_writes();
    if (auto frame = transfers.take_frame_of_run(spill_->file, place, n_run)) return frame;
    if (is_spill_off_ || !transfers.wait_any()) return std::nullopt;
  }
}

/// A place in the spill file. The extents of a layer follow each other there, as they are read.
/// Where the file is full, a place comes back as soon as an extent that nobody refers to any more
/// has been written.
std::optional<uint64_t> BlockStore::take_place(uint32_t layer, uint32_t first_pos) {
  const uint64_t place_bytes = spill_->places->place_bytes();
  const uint64_t n_of_layer = spill_->places->budget_bytes() / place_bytes / resident_.size();
  const uint64_t near = (layer * n_of_layer + first_pos / kExtentPositions) * place_bytes;
  for (;;) {
    if (const auto place = spill_->places->take(near)) return place;
    const bool is_any_unused = std::ranges::any_of(
        writes_, [&](const auto& write) { return extent(write.first).n_live == 0; });
    if (!is_any_unused || !wait_for_transfer()) return std::nullopt;
  }
}

bool BlockStore::freeze(uint32_t layer, uint32_t first_pos, std::span<const Hash128> chain,
                        std::span<const BlockId> blocks, uint32_t n_run) {
  STRATA_CHECK(chain.size() == kExtentBlocks && blocks.size() % kExtentBlocks == 0,
               "an extent of %zu blocks, %zu hashes", blocks.size(), chain.size());
  if (!has_spill() || is_spill_off_) return true;
  std::optional<uint64_t> place;
  std::optional<FillLease> frame;
  ExtentId id = kNoExtent;
  make_room_for(writes_, writes_.size() + 1);
  try {
    place = take_place(layer, first_pos);
    if (place) frame = wait_for_frame(*place, n_run);
    if (frame) id = add_extent(layer, blocks.size(), blocks.size());
  } catch (const Error& stopped) {
    if (place) spill_->places->give_back(*place);
    if (stopped.code() != ErrorCode::kCancelled) throw;
    return false;
  } catch (...) {
    if (place) spill_->places->give_back(*place);
    throw;
  }
  if (!place) {
    ++counts_.places_refused;
    return true;
  }
  if (!frame) {
    spill_->places->give_back(*place);
    ++counts_.frames_refused;
    if (spill_->transfers->n_quarantined() > 0) last_failure_ = IoStatus::kTimedOut;
    // The disk hangs: what is frozen from now on stays in DRAM. Frames that readers hold come back.
    if (spill_->transfers->n_quarantined() == spill_->transfers->n_frames()) is_spill_off_ = true;
    return true;
  }
  Extent& of = extent(id);
  of.state = ExtentState::kWriting;
  of.first_pos = first_pos;
  of.place = *place;
  of.file = spill_->file;
  of.generation = next_generation_++;
  of.step = step_;
  of.n_live = 0;
  of.chain.assign(chain.begin(), chain.end());
  of.blocks.assign(blocks.begin(), blocks.end());
  of.tags.resize(blocks.size());
  const auto bytes = static_cast<uint32_t>(extent_bytes(of));
  STRATA_CHECK(bytes <= spill_->places->place_bytes(), "an extent of %u bytes", bytes);
  std::byte* to = frame->bytes().data();
  for (uint32_t idx = 0; idx < blocks.size(); ++idx, to += layout_.block_bytes) {
    if (blocks[idx] == kNoBlock) {
      std::memset(to, 0, layout_.block_bytes);
      continue;
    }
    std::memcpy(to, open_bytes(blocks[idx]), layout_.block_bytes);
    of.tags[idx] = block_tag(identity(of, idx), {to, layout_.block_bytes});
    record(blocks[idx]).extent = id;
    record(blocks[idx]).idx = idx;
    give_slot(blocks[idx], slot_of(blocks[idx]));
    ++of.n_live;
  }
  of.n_resident = 0;
  blocks_came(id, of.n_live);
  std::memset(to, 0, static_cast<size_t>(frame->bytes().data() + bytes - to));
  TransferQueue& transfers = *spill_->transfers;
  const auto start =
      transfers.joins_writes() ? TransferQueue::Start::kAtNextPoll : TransferQueue::Start::kNow;
  writes_.emplace_back(
      id, transfers.write(std::move(*frame), spill_->file, *place, bytes, start, layer));
  return true;
}

void BlockStore::collect_writes() {
  spill_->transfers->poll();
  take_ended_writes();
  take_back_slots();
}

/// Of the writes that had ended at the last poll. True where there was one.
bool BlockStore::take_ended_writes() {
  const size_t n_before = writes_.size();
  for (uint32_t i = 0; i < writes_.size();) {
    auto& [id, ticket] = writes_[i];
    if (!spill_->transfers->is_done(ticket)) {
      ++i;
      continue;
    }
    const ExtentId ended = id;
    const IoStatus status = spill_->transfers->take_write(std::move(ticket));
    writes_.erase(writes_.begin() + i);
    write_ended(ended, status);
  }
  return writes_.size() < n_before;
}

void BlockStore::write_ended(ExtentId id, IoStatus status) {
  Extent& of = extent(id);
  if (status == IoStatus::kOk) {
    ++counts_.extents_written;
    of.state = ExtentState::kStored;
    free_if_unused(id);
    return;
  }
  // The blocks stay where they are. Places that are not used again: of kWriteFailuresMax requests,
  // and of those that were on their way then.
  ++counts_.write_failures;
  if (keeps_place(status)) spill_->places->give_back(of.place);
  last_failure_ = status;
  is_spill_off_ = is_spill_off_ || is_lasting(status) ||
                  spill_->transfers->counts().failed_write_requests >= kWriteFailuresMax;
  forget(id);
}

/// Takes an extent away from its blocks, which are all in DRAM. Its place stays taken.
void BlockStore::forget(ExtentId id) {
  Extent& of = extent(id);
  std::erase(resident_[of.layer], id);
  for (const BlockId block : of.blocks) {
    if (block == kNoBlock) continue;
    record(block).extent = kNoExtent;
    set_slot_block(slot_of(block), kNoBlock);
  }
  of.blocks.clear();
  of.n_live = of.n_resident = 0;
  of.pack.reset();
  count_away(of);
  --n_extents_[of.layer];
  free_extents_.push_back(number(id));
  PackFile* const file = std::exchange(of.pack_file, nullptr);
  if (file != nullptr && --file->n_extents == 0) close_unused_packs();
}

void BlockStore::free_if_unused(ExtentId id) {
  Extent& of = extent(id);
  if (of.n_live > 0 || of.holds > 0 || of.state == ExtentState::kWriting) return;
  // A place that could not be read rightly is not trusted again.
  if (of.state == ExtentState::kStored && !of.pack) spill_->places->give_back(of.place);
  forget(id);
}

/// After a change of what is live or in DRAM.
void BlockStore::count_away(Extent& of) {
  const bool is_away = of.n_resident < of.n_live;
  if (of.is_away == is_away) return;
  of.is_away = is_away;
  is_away ? ++n_away_ : --n_away_;
}

void BlockStore::add_block_file(IoFile file, IoFile block_file) {
  block_files_.resize(std::max<size_t>(block_files_.size(), number(file) + size_t{1}));
  block_files_[number(file)] = block_file;
}

/// By an extent, or by a device that has not answered yet.
bool BlockStore::is_in_use(const PackFile& of) const {
  return of.n_extents > 0 || spill_->transfers->is_in_use(of.io) ||
         (can_read_blocks() && spill_->block_transfers->is_in_use(of.block_io));
}

void BlockStore::close_unused_packs() {
  std::erase_if(pack_files_, [&](const auto& of) {
    if (is_in_use(*of)) return false;
    spill_->transfers->remove_file(of->io);
    if (can_read_blocks()) spill_->block_transfers->remove_file(of->block_io);
    return true;
  });
}

IoFile BlockStore::add_pack(const PackReader& pack) {
  // The pack is open through the page cache; this opens the same file past it, also when its name
  // is gone by now.
  struct stat status {};
  if (::fstat(pack.descriptor(), &status) != 0)
    throw Error(ErrorCode::kIo,
                std::string("cannot look at a saved context: ") + std::strerror(errno), pack.name(),
                "look at the disk (dmesg)");
  const std::pair<uint64_t, uint64_t> id(status.st_dev, status.st_ino);
  for (const auto& known : pack_files_)
    if (known->id == id) return known->io;
  close_unused_packs();
  auto added = std::make_unique<PackFile>(
      PackFile{.file = File::open_for_reading("/proc/self/fd/" + std::to_string(pack.descriptor()),
                                              /*direct=*/true),
               .id = id});
  pack_files_.reserve(pack_files_.size() + 1);  // nothing fails once both queues know the file
  added->io = spill_->transfers->add_file(added->file);
  if (can_read_blocks()) {
    try {
      block_files_.reserve(number(added->io) + size_t{1});
      added->block_io = spill_->block_transfers->add_file(added->file);
    } catch (...) {
      spill_->transfers->remove_file(added->io);
      throw;
    }
    add_block_file(added->io, added->block_io);
  }
  pack_files_.push_back(std::move(added));
  return pack_files_.back()->io;
}

void BlockStore::adopt(const SavedExtent& saved, std::span<BlockId> blocks) {
  reserve_blocks(blocks.size());
  const ExtentId id = add_extent(saved.layer, blocks.size(), 0);
  Extent& of = extent(id);
  of.state = ExtentState::kStored;
  of.first_pos = saved.first_pos;
  of.step = 0;
  of.pack = saved.pack;
  of.pack_extent = saved.pack_extent;
  of.file = saved.file;
  const auto file =
      std::ranges::find_if(pack_files_, [&](const auto& known) { return known->io == saved.file; });
  of.pack_file = file == pack_files_.end() ? nullptr : file->get();
  if (of.pack_file != nullptr) ++of.pack_file->n_extents;
  of.place = saved.pack->geometry().region_offset(saved.pack_extent, saved.layer);
  of.tags.clear();
  of.chain.clear();
  of.blocks.clear();
  for (uint32_t idx = 0; idx < blocks.size(); ++idx) {
    blocks[idx] = add_block({.references = 1, .extent = id, .idx = idx});
    of.blocks.push_back(blocks[idx]);
  }
  of.n_live = static_cast<uint32_t>(blocks.size());
  of.n_resident = 0;
  count_away(of);
}

void BlockStore::replace(BlockId lost, BlockId fresh, bool is_repair) {
  Block& a = record(lost);
  Block& b = record(fresh);
  STRATA_CHECK(a.pins == 0 && b.pins == 0, "block %u or %u is pinned", number(lost), number(fresh));
  if (a.read != kNoRead) drop_read(a.read);
  if (b.read != kNoRead) drop_read(b.read);
  if (is_repair) ++counts_.replaced_blocks;
  std::swap(a.slot, b.slot);
  std::swap(a.extent, b.extent);
  std::swap(a.idx, b.idx);
  a.generation = next_block_generation_++;
  b.generation = next_block_generation_++;
  if (a.extent != kNoExtent) extent(a.extent).blocks[a.idx] = lost;
  if (b.extent != kNoExtent) extent(b.extent).blocks[b.idx] = fresh;
  for (const BlockId block : {lost, fresh})
    if (is_resident(block)) set_slot_block(slot_of(block), is_frozen(block) ? block : kNoBlock);
}

}  // namespace strata::tiers
