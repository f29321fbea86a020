#include "index/tile_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "base/room_for.h"

namespace strata::index {
namespace {

constexpr uint32_t kSlotBlocks = TileMemory::kSlotTiles * kExtentBlocks;

}  // namespace

TileTable::TileTable(std::shared_ptr<TileMemory> memory, uint32_t n_streams)
    : memory_(std::move(memory)), streams_(n_streams) {}

TileTable::TileTable(const TileTable& other)
    : memory_(other.memory_), streams_(other.streams_), n_blocks_(other.n_blocks_) {
  for (const Stream& stream : streams_)
    for (const TileSlot slot : stream.slots) memory_->add_reference(slot);
}

TileTable::~TileTable() { truncate(0); }

void TileTable::list_tiles(Stream& stream, uint32_t slot_idx) {
  stream.tiles.resize(stream.slots.size() * TileMemory::kSlotTiles);
  for (uint32_t i = 0; i < TileMemory::kSlotTiles; ++i)
    stream.tiles[slot_idx * TileMemory::kSlotTiles + i] = memory_->tile(stream.slots[slot_idx], i);
}

void TileTable::open_blocks(uint32_t end_block) {
  if (end_block <= n_blocks_) return;
  const uint32_t had = tile_slots(n_blocks_);
  const uint32_t wanted = tile_slots(end_block);
  const bool appends_inside = n_blocks_ % kSlotBlocks != 0;
  uint64_t n_new = uint64_t{wanted - had} * streams_.size();
  if (appends_inside)
    for (const Stream& stream : streams_)
      n_new += memory_->is_shared(stream.slots.back()) ? 1u : 0u;
  if (n_new > memory_->n_free())
    throw Error(ErrorCode::kDoesNotFit,
                fmt::format("the index of {} positions needs {} more slots, {} are free",
                            uint64_t{end_block} * kBlockPositions, n_new, memory_->n_free()),
                "index", "use a smaller context or fewer sequences");
  for (Stream& stream : streams_) {  // nothing fails once slots are taken
    make_room_for(stream.slots, wanted);
    make_room_for(stream.tiles, size_t{wanted} * TileMemory::kSlotTiles);
  }
  const auto n_used = static_cast<uint32_t>(div_up(n_blocks_ % kSlotBlocks, kExtentBlocks));
  for (Stream& stream : streams_) {
    if (!appends_inside || !memory_->is_shared(stream.slots.back())) continue;
    stream.slots.back() = memory_->replace_by_copy(stream.slots.back(), n_used);
    list_tiles(stream, had - 1);
  }
  // Positions of all streams lie near each other, for they are written together: a huge page is
  // then cleared just before it is filled, and not all of them at the first positions.
  for (uint32_t slot = had; slot < wanted; ++slot)
    for (Stream& stream : streams_) {
      stream.slots.push_back(memory_->take());
      list_tiles(stream, slot);
    }
  n_blocks_ = end_block;
}

void TileTable::truncate(uint32_t n_blocks) {
  if (n_blocks >= n_blocks_) return;
  const uint32_t kept = tile_slots(n_blocks);
  for (Stream& stream : streams_) {
    for (size_t slot = kept; slot < stream.slots.size(); ++slot)
      memory_->release(stream.slots[slot]);
    stream.slots.resize(kept);
    stream.tiles.resize(size_t{kept} * TileMemory::kSlotTiles);
  }
  n_blocks_ = n_blocks;
}

std::byte* TileTable::tile(StreamIdx stream, uint32_t extent) {
  STRATA_CHECK(stream < streams_.size() && extent < div_up(n_blocks_, kExtentBlocks),
               "tile %u of stream %u, %u blocks", extent, stream, n_blocks_);
  return memory_->write_tile(streams_[stream].slots[extent / TileMemory::kSlotTiles],
                             extent % TileMemory::kSlotTiles);
}

const std::byte* TileTable::tile(StreamIdx stream, uint32_t extent) const {
  return tiles(stream)[extent];
}

std::span<const std::byte* const> TileTable::tiles(StreamIdx stream) const {
  STRATA_CHECK(stream < streams_.size(), "stream %u of %zu", stream, streams_.size());
  return std::span(streams_[stream].tiles).first(div_up(n_blocks_, kExtentBlocks));
}

std::span<const TileSlot> TileTable::slots(StreamIdx stream) const {
  STRATA_CHECK(stream < streams_.size(), "stream %u of %zu", stream, streams_.size());
  return streams_[stream].slots;
}

}  // namespace strata::index
