#include "engine/device_kv.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/checked_math.h"

namespace strata::engine {
namespace {

constexpr uint64_t kListEntries = 16384;  // entries set and blocks copied by one launch
constexpr uint64_t kListBytes = kListEntries * (sizeof(uint32_t) + 3 * sizeof(uint64_t));

uint64_t table_entries(uint32_t n_streams, uint64_t n_ctx) { return n_streams * blocks_for(n_ctx); }

uint32_t count_streams(const ModelShape& shape) {
  uint32_t n = 0;
  for (const LayerShape& layer : shape.layers) n += layer.n_kv_heads;
  return n;
}

}  // namespace

uint64_t DeviceKv::table_bytes(const ModelShape& shape, uint64_t n_ctx) {
  return 2 * table_entries(count_streams(shape), n_ctx) * sizeof(uint64_t);
}

uint64_t DeviceKv::host_bytes(const ModelShape& shape, uint64_t n_ctx, uint64_t n_blocks) {
  const uint64_t per_block = sizeof(Copy) + sizeof(Slot) + sizeof(uint32_t);  // free_slots_
  return table_bytes(shape, n_ctx) +
         table_entries(count_streams(shape), n_ctx) * sizeof(tiers::BlockId) +
         n_blocks * per_block + round_up(kListBytes, HostMemory::kGrain);
}

DeviceKv::DeviceKv(const OpenDevice& device, KvCache& cache, uint64_t slots_bytes, uint64_t n_ctx,
                   std::vector<uint32_t> near_blocks)
    : cache_(cache),
      block_bytes_(cache.layout().block_bytes),
      stride_(blocks_for(n_ctx)),
      near_blocks_(std::move(near_blocks)),
      arena_(PinnedMemory::pin(device, cache.pool().memory())) {
  const uint32_t n_homes = cache.pool().n_slots();
  uint64_t n_most = slots_bytes / block_bytes_;
  if (!cache.store().has_spill()) n_most = std::min<uint64_t>(n_most, n_homes);
  const auto n_slots = static_cast<uint32_t>(n_most);
  if (n_slots > 0)
    slots_ = DeviceBuffer::allocate(device, uint64_t{n_slots} * block_bytes_, "blocks of K and V");
  tables_ = DeviceBuffer::allocate(device, table_bytes(cache.shape(), n_ctx), "block tables");
  entries_.assign(2 * table_entries(cache.n_streams(), n_ctx), nullptr);
  entry_of_.assign(table_entries(cache.n_streams(), n_ctx), tiers::kNoBlock);
  copies_.reserve(cache.store().has_spill() ? entry_of_.size() : n_homes);
  copies_.resize(n_homes);
  slots_of_device_.resize(n_slots);
  free_slots_.reserve(n_slots);
  for (uint32_t slot = n_slots; slot-- > 0;) free_slots_.push_back(slot);
  list_memory_ = HostMemory::reserve(kListBytes);
  pinned_lists_ = PinnedMemory::pin(device, {list_memory_.data(), list_memory_.size()});
  set_value_ = list_memory_.as<uint64_t>(kListEntries);
  copy_from_ = list_memory_.as<std::byte*>(kListEntries, kListEntries * sizeof(uint64_t));
  copy_to_ = list_memory_.as<std::byte*>(kListEntries, 2 * kListEntries * sizeof(uint64_t));
  set_index_ = list_memory_.as<uint32_t>(kListEntries, 3 * kListEntries * sizeof(uint64_t));
}

std::byte* DeviceKv::address(uint32_t slot) const {
  return slots_.bytes() + uint64_t{slot} * block_bytes_;
}

DeviceKvTables DeviceKv::tables(uint32_t layer) const {
  auto* blocks = tables_.as<std::byte*>() + cache_.stream_idx(layer, 0) * stride_;
  return {blocks, blocks + entries_.size() / 2, stride_};
}

/// Copies of blocks that are gone, or are others by now, give their slots back.
void DeviceKv::reclaim() {
  const tiers::BlockStore& store = cache_.store();
  for (uint32_t i = 0; i < copies_.size(); ++i) {
    Copy& copy = copies_[i];
    if (copy.slot == kNone || store.generation(static_cast<tiers::BlockId>(i)) == copy.generation)
      continue;
    free_slots_.push_back(copy.slot);
    copy.slot = kNone;
  }
}

bool DeviceKv::has_copy(tiers::BlockId block) const {
  if (number(block) >= copies_.size()) return false;
  const Copy& copy = copies_[number(block)];
  return copy.slot != kNone && cache_.store().generation(block) == copy.generation;
}

DeviceKv::Copy& DeviceKv::copy_of(tiers::BlockId block) {
  if (number(block) >= copies_.size()) copies_.resize(number(block) + 1);
  return copies_[number(block)];
}

uint32_t DeviceKv::free_slot() {
  if (free_slots_.empty() && !is_swept_) {
    reclaim();
    is_swept_ = true;
  }
  if (free_slots_.empty()) return kNone;
  const uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

/// Whether the device reads a block where it lies in DRAM.
bool DeviceKv::is_far(uint64_t entry) const {
  return entries_[entry] == entries_[entry + entries_.size() / 2];
}

/// An entry of the tables and, where it changes, of what the device is told.
void DeviceKv::put(uint64_t entry, std::byte* block) {
  if (entries_[entry] == block) return;
  entries_[entry] = block;
  set_index_[n_set_++] = static_cast<uint32_t>(entry);
}

void DeviceKv::list_copy(std::byte* from, uint32_t slot) {
  copy_from_[n_copies_] = from;
  copy_to_[n_copies_] = address(slot);
  ++n_copies_;
  counts_.fetched_bytes += block_bytes_;
}

/// As the device reaches it in DRAM; null where it is in no slot.
std::byte* DeviceKv::home_of(tiers::BlockId block) const {
  const tiers::SlotId slot = cache_.store().slot_of(block);
  return slot == tiers::kNoSlot ? nullptr : arena_.on_device(cache_.pool().address(slot));
}

/// Decides where the device reads a block, and lists what changes by it. One that is in no slot of
/// DRAM has a copy, or is not the device's to read.
void DeviceKv::place(uint32_t stream_idx, uint32_t block_idx, tiers::BlockId block, bool has_rows,
                     bool is_windowed, bool is_near) {
  const uint64_t at = stream_idx * stride_ + block_idx;
  const bool was_far = block_idx < n_known_ && is_far(at);
  const bool must_stay = is_windowed || (is_near && cache_.store().has_spill());
  Copy& copy = copy_of(block);
  const uint64_t generation = cache_.store().generation(block);
  std::byte* const home_address = home_of(block);
  if (copy.slot != kNone && copy.generation != generation && !is_near) {  // of an earlier block
    free_slots_.push_back(copy.slot);
    copy.slot = kNone;
  }
  if (copy.slot == kNone || copy.generation != generation) {
    if (copy.slot == kNone && is_near) copy.slot = free_slot();
    if (copy.slot == kNone && is_windowed)
      copy.slot = slot_in_place_of_another();
    else if (copy.slot == kNone && must_stay)
      copy.slot = slot_of_another_text();
    if (copy.slot != kNone) {
      copy.generation = generation;
      STRATA_CHECK(!has_rows || home_address != nullptr, "block %u is nowhere", number(block));
      if (has_rows) list_copy(home_address, copy.slot);
    }
  }
  if (copy.slot != kNone) {
    Slot& slot = slots_of_device_[copy.slot];
    const bool is_known = slot.block == block && slot.entry == at && slot.last_chosen != kAlways;
    slot = {block, at, must_stay ? kAlways : is_known ? slot.last_chosen : 0, n_tables_};
  }
  entry_of_[at] = block;
  put(at, copy.slot != kNone ? address(copy.slot) : home_address);
  put(at + entries_.size() / 2, home_address);
  if (is_windowed || is_far(at) == was_far) return;
  if (was_far)
    --n_far_;
  else
    ++n_far_;
}

/// The choice; what every step attends counts while the tables are those that it was placed for.
uint64_t DeviceKv::last_use(uint32_t slot) const {
  const Slot& of = slots_of_device_[slot];
  if (of.last_chosen != kAlways) return of.last_chosen;
  return of.n_tables == n_tables_ ? kAlways : 0;
}

/// The copy in a slot is one no more.
void DeviceKv::give_up(uint32_t slot) {
  const Slot& given_up = slots_of_device_[slot];
  if (Copy& copy = copies_[number(given_up.block)]; copy.slot == slot) copy.slot = kNone;
  if (entries_[given_up.entry] != address(slot)) return;
  put(given_up.entry, entries_[given_up.entry + entries_.size() / 2]);
  if (given_up.n_tables == n_tables_) ++n_far_;
}

/// Where K and V spill, in place of what this step's tables do not keep: there is one, since a text
/// alone has room for what it keeps.
uint32_t DeviceKv::slot_of_another_text() {
  const auto n_slots = static_cast<uint32_t>(slots_of_device_.size());
  for (uint32_t i = 0; i < n_slots; ++i) {
    const uint32_t slot = hand_;
    hand_ = hand_ + 1 == n_slots ? 0 : hand_ + 1;
    if (last_use(slot) == kAlways) continue;
    give_up(slot);
    return slot;
  }
  STRATA_CHECK(false, "one text keeps all of %u blocks of the device", n_slots);
}

void DeviceKv::attend_all(uint64_t n_cpu_blocks) {
  uint64_t n_full_streams = 0;
  for (const LayerShape& layer : cache_.shape().layers)
    if (layer.window == 0) n_full_streams += layer.n_kv_heads;
  counts_.attended_bytes += n_full_streams * blocks_for(end_row_) * block_bytes_;
  counts_.far_bytes += (n_far_ - std::min(n_far_, n_cpu_blocks)) * block_bytes_;
  counts_.cpu_bytes += n_cpu_blocks * block_bytes_;
}

/// Queues what is listed. The lists are used again, so all but the last are waited for.
void DeviceKv::flush_lists(Stream& stream, bool is_last) {
  // A block that is placed sets two entries, and that of the copy whose slot it takes.
  if (!is_last && n_set_ + 3 <= kListEntries && n_copies_ < kListEntries) return;
  stream.run(&DeviceKernels::copy_blocks, {.from = pinned_lists_.on_device(copy_from_.data()),
                                           .to = pinned_lists_.on_device(copy_to_.data()),
                                           .n_blocks = n_copies_,
                                           .block_bytes = block_bytes_});
  // An entry that was set twice is told twice what it is now.
  for (uint32_t i = 0; i < n_set_; ++i)
    set_value_[i] = reinterpret_cast<uint64_t>(entries_[set_index_[i]]);
  stream.run(&DeviceKernels::set_words, {.words = tables_.as<uint64_t>(),
                                         .index = pinned_lists_.on_device(set_index_.data()),
                                         .value = pinned_lists_.on_device(set_value_.data()),
                                         .n = n_set_});
  if (!is_last) stream.wait();
  n_set_ = 0;
  n_copies_ = 0;
}

/// Reads what only a file holds of an extent; where DRAM has room it stays there.
void DeviceKv::settle(const Sequence& sequence, uint32_t layer, uint32_t first_block) {
  const uint32_t first = first_block / kExtentBlocks * kExtentBlocks;
  const auto n_blocks = static_cast<uint32_t>(
      std::min<uint64_t>(kExtentBlocks, blocks_for(sequence.n_pos()) - first));
  cache_.release_extent(cache_.hold_extent(sequence, layer, first * kBlockPositions, n_blocks));
}

/// Where K and V spill: what the device has of this text stays for these tables, whatever of it
/// comes first; then what it lacks and only a file holds is read.
void DeviceKv::keep_near(Stream& stream, const Sequence& sequence) {
  const tiers::BlockStore& store = cache_.store();
  const auto each_near = [&](const auto& visit) {
    for (uint32_t layer = 0; layer < cache_.shape().n_layers; ++layer) {
      if (cache_.shape().layers[layer].window > 0) continue;
      for (uint32_t head = 0; head < cache_.shape().layers[layer].n_kv_heads; ++head) {
        const auto blocks = cache_.stream_blocks(sequence, layer, head).blocks;
        const auto n = std::min(near_blocks_[layer], static_cast<uint32_t>(blocks.size()));
        for (uint32_t i = 0; i < n; ++i) visit(layer, i, blocks[i]);
      }
    }
  };
  each_near([&](uint32_t, uint32_t, tiers::BlockId block) {
    if (!has_copy(block)) return;
    Slot& slot = slots_of_device_[copies_[number(block)].slot];
    slot.n_tables = n_tables_;
    slot.last_chosen = kAlways;
  });
  each_near([&](uint32_t layer, uint32_t i, tiers::BlockId block) {
    if (!store.is_resident(block) && !has_copy(block))
      read_near(stream, sequence, layer, i / kExtentBlocks * kExtentBlocks);
  });
}

/// All of an extent that has no copy, from the frame or the slots that it is read into.
void DeviceKv::read_near(Stream& stream, const Sequence& sequence, uint32_t layer, uint32_t first) {
  const auto n_blocks = static_cast<uint32_t>(
      std::min<uint64_t>(kExtentBlocks, blocks_for(sequence.n_pos()) - first));
  // Room for what is noted: nothing but a device that is lost ends what comes between copies.
  for (uint32_t head = 0; head < cache_.shape().layers[layer].n_kv_heads; ++head)
    for (uint32_t i = 0; i < n_blocks; ++i)
      copy_of(cache_.stream_blocks(sequence, layer, head).blocks[first + i]);
  const ExtentBytes held = cache_.hold_extent(sequence, layer, first * kBlockPositions, n_blocks);
  try {
    for (uint32_t head = 0; head < cache_.shape().layers[layer].n_kv_heads; ++head)
      for (uint32_t i = 0; i < n_blocks; ++i) {
        const tiers::BlockId block = cache_.stream_blocks(sequence, layer, head).blocks[first + i];
        if (has_copy(block)) continue;
        flush_lists(stream, false);
        Copy& copy = copy_of(block);
        uint32_t slot = std::exchange(copy.slot, kNone);
        if (slot == kNone) slot = free_slot();
        if (slot == kNone) slot = slot_of_another_text();
        slots_of_device_[slot] = {block, cache_.stream_idx(layer, head) * stride_ + first + i,
                                  kAlways, n_tables_};
        stream.copy(address(slot), held.blocks[uint64_t{head} * n_blocks + i], block_bytes_);
        copy_of(block) = {slot, cache_.store().generation(block)};
        counts_.fetched_bytes += block_bytes_;
      }
    stream.wait();
  } catch (...) {
    cache_.release_extent(held);
    throw;
  }
  cache_.release_extent(held);
}

/// The blocks of a layer from block `first` on.
void DeviceKv::place_layer(Stream& stream, const Sequence& sequence, uint32_t layer,
                           uint32_t first) {
  const tiers::BlockStore& store = cache_.store();
  const LayerShape& of = cache_.shape().layers[layer];
  const bool is_windowed = of.window > 0, spills = store.has_spill();
  uint32_t n_near = near_blocks_.empty() ? UINT32_MAX : near_blocks_[layer];
  if (spills && chooses_ && !is_windowed) n_near = 0;
  for (uint32_t head = 0; head < of.n_kv_heads; ++head) {
    const auto stream_blocks = cache_.stream_blocks(sequence, layer, head);
    const auto end = stream_blocks.first_block + static_cast<uint32_t>(stream_blocks.blocks.size());
    for (uint32_t i = std::max(first, stream_blocks.first_block); i < end; ++i) {
      const tiers::BlockId block = stream_blocks.blocks[i - stream_blocks.first_block];
      if (!store.is_resident(block) && !spills) settle(sequence, layer, i);
      if (!store.is_resident(block) && !spills)
        throw Error(ErrorCode::kDoesNotFit,
                    "memory does not hold all of K and V, which a device needs there", "--device",
                    "raise --kv-dram or --dram, use a smaller -c, or --device none");
      const bool has_rows = i * kBlockPositions < first_row_;
      place(cache_.stream_idx(layer, head), i, block, has_rows, is_windowed, i < n_near);
      flush_lists(stream, false);
    }
  }
}

void DeviceKv::begin_step(Stream& stream, const Sequence& sequence, uint32_t n_rows, bool chooses) {
  if (n_set_ + n_copies_ > 0) {  // of a step that was given up while it was listed
    flush_lists(stream, true);
    stream.wait();
  }
  begin_turn(sequence);
  first_row_ = sequence.n_pos();
  // The store may move blocks of a saved context out of memory behind the sequence's back. Where K
  // and V spill, what leaves is not read where it was.
  const bool spills = cache_.store().has_spill();
  const uint64_t n_evicted = spills ? 0 : cache_.store().counts().n_evicted();
  const bool is_next = sequence.edition() == edition_ && end_row_ == first_row_ &&
                       n_evicted == n_evicted_ && (!spills || chooses == chooses_);
  chooses_ = chooses;
  n_known_ = is_next ? static_cast<uint32_t>(blocks_for(first_row_)) : 0;
  if (!is_next) {
    ++n_tables_;
    n_far_ = 0;
  }
  end_row_ = first_row_ + n_rows;
  STRATA_CHECK(end_row_ <= stride_ * kBlockPositions, "row %u of a table of %llu blocks", end_row_,
               static_cast<unsigned long long>(stride_));
  edition_ = 0;  // until this has come to its end
  is_swept_ = false;
  const uint32_t changed = is_next ? first_row_ / kBlockPositions : 0;
  if (spills && !is_next && !chooses) keep_near(stream, sequence);
  // Windowed layers first: all that they hold is attended, so they may take others' places.
  for (const bool is_windowed : {true, false})
    for (uint32_t layer = 0; layer < cache_.shape().n_layers; ++layer)
      if ((cache_.shape().layers[layer].window > 0) == is_windowed)
        place_layer(stream, sequence, layer, changed);
  flush_lists(stream, true);
  edition_ = sequence.edition();
  n_evicted_ = spills ? 0 : cache_.store().counts().n_evicted();
}

void DeviceKv::leave_rows(const Sequence& sequence) {
  edition_ = 0;
  const uint32_t first = sequence.n_pos() / kBlockPositions;
  for (uint32_t layer = 0; layer < cache_.shape().n_layers; ++layer)
    for (uint32_t head = 0; head < cache_.shape().layers[layer].n_kv_heads; ++head) {
      const auto of = cache_.stream_blocks(sequence, layer, head);
      for (uint32_t i = first - std::min(first, of.first_block); i < of.blocks.size(); ++i) {
        if (!has_copy(of.blocks[i])) continue;
        free_slots_.push_back(std::exchange(copies_[number(of.blocks[i])].slot, kNone));
      }
    }
}

void DeviceKv::end_step(Stream& stream, bool is_mirrored) {
  if (is_mirrored) return;
  stream.wait();  // the lists are free then
  const uint64_t half = entries_.size() / 2;
  const uint32_t first = first_row_ / kBlockPositions;
  const auto end = static_cast<uint32_t>(blocks_for(end_row_));
  for (uint32_t stream_idx = 0; stream_idx < cache_.n_streams(); ++stream_idx)
    for (uint32_t i = first; i < end; ++i) {
      const uint64_t at = stream_idx * stride_ + i;
      if (is_far(at)) continue;  // was written at home
      copy_from_[n_copies_] = entries_[at];
      copy_to_[n_copies_] = entries_[at + half];
      ++n_copies_;
      counts_.written_bytes += block_bytes_;
      flush_lists(stream, false);
    }
  flush_lists(stream, true);
}

}  // namespace strata::engine
