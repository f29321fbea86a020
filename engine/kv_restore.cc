// engine/kv_restore.cc - a sequence from saved packs. Whole extents of full layers are only taken
// up: their blocks are read when a step uses them. What ends a context, and the rows that windows
// still attend, are read at once into DRAM, because the next step appends to or drops them.
#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/error.h"
#include "base/room_for.h"
#include "engine/kv_cache.h"

namespace strata::engine {
namespace {

/// Where a block of the text lies.
struct SavedBlock {
  const tiers::FoundPiece* piece = nullptr;
  uint32_t block = 0;  // in the pack
  uint32_t pack_extent() const { return block / kExtentBlocks; }
};

std::vector<SavedBlock> saved_blocks(const tiers::FoundContext& found) {
  std::vector<SavedBlock> blocks;
  for (const tiers::FoundPiece& piece : found.pieces)
    for (uint32_t i = 0; i < piece.n_blocks; ++i) blocks.push_back({&piece, piece.first_block + i});
  return blocks;
}

/// Eight full blocks that stand in one region of a pack.
bool is_whole_extent(std::span<const SavedBlock> blocks, uint32_t first, uint32_t n_positions) {
  if ((first + kExtentBlocks) * kBlockPositions > n_positions) return false;
  const SavedBlock& begin = blocks[first];
  if (begin.block % kExtentBlocks != 0) return false;
  for (uint32_t i = 1; i < kExtentBlocks; ++i)
    if (blocks[first + i].piece != begin.piece || blocks[first + i].block != begin.block + i)
      return false;
  return true;
}

/// One layer of an extent of a pack, read and checked; the last one asked for is kept.
class RegionReader {
 public:
  explicit RegionReader(tiers::BlockStore& store) : store_(store) {}
  ~RegionReader() { store_.close_unused_packs(); }
  RegionReader(const RegionReader&) = delete;
  RegionReader& operator=(const RegionReader&) = delete;

  /// Errors: kIo, kBadFile, kCancelled.
  const std::byte* block(const SavedBlock& of, uint32_t layer, uint32_t kv_head,
                         uint32_t block_bytes) {
    const tiers::PackReader& pack = *of.piece->pack;
    if (pack_ != &pack || layer_ != layer || extent_ != of.pack_extent()) {
      region_.resize(
          tiers::region_payload_bytes(pack.head(), pack.geometry(), of.pack_extent(), layer));
      pack_ = nullptr;
      read(pack, of.pack_extent(), layer);
      pack_ = &pack;
      layer_ = layer;
      extent_ = of.pack_extent();
    }
    const uint64_t idx =
        uint64_t{kv_head} * pack.head().extent_blocks(of.pack_extent()) + of.block % kExtentBlocks;
    return region_.data() + idx * block_bytes;
  }

 private:
  void read(const tiers::PackReader& pack, uint32_t extent, uint32_t layer) {
    STRATA_CHECK(pack.head().has_region(layer, extent), "layer %u lacks extent %u", layer, extent);
    const tiers::IoFile file = store_.add_pack(pack);
    const uint64_t offset = pack.geometry().region_offset(extent, layer);
    tiers::IoStatus status = store_.read_pack(file, offset, region_);
    if (status == tiers::IoStatus::kOk && is_right(pack, extent, layer)) return;
    // A second read tells a passing error from a lasting one; of what timed out it would wait as
    // long.
    if (status != tiers::IoStatus::kTimedOut) status = store_.read_pack(file, offset, region_);
    if (status != tiers::IoStatus::kOk)
      throw Error(status == tiers::IoStatus::kEndedEarly ? ErrorCode::kBadFile : ErrorCode::kIo,
                  "a saved context could not be read: " + tiers::failure_text(status), pack.path(),
                  "look at the disk (dmesg, smartctl), or name a folder on another one with "
                  "--session-dir");
    pack.check_region(extent, layer, region_);
  }
  bool is_right(const tiers::PackReader& pack, uint32_t extent, uint32_t layer) const {
    try {
      pack.check_region(extent, layer, region_);
    } catch (const Error&) {
      return false;
    }
    return true;
  }

  tiers::BlockStore& store_;
  const tiers::PackReader* pack_ = nullptr;
  uint32_t layer_ = 0;
  uint32_t extent_ = 0;
  std::vector<std::byte> region_;
};

}  // namespace

Sequence KvCache::make_for(const tiers::FoundContext& found, const tiers::Hash128& root) {
  Sequence sequence = make_sequence(root);
  if (sequence.index_) {
    const uint32_t n_blocks = found.n_positions / kBlockPositions;
    sequence.index_->open_blocks(n_blocks);
    // A method that keeps nothing of blocks needs not see them.
    if (sequence.index_->segment_bytes() == 0) sequence.n_indexed_ = n_blocks;
  }
  return sequence;
}

void KvCache::restore(const tiers::FoundContext& found, std::span<const int32_t> tokens,
                      Sequence& sequence) {
  const uint32_t n = found.n_positions;
  STRATA_CHECK(n <= tokens.size() && store_.can_adopt() && sequence.n_pos() == 0,
               "%u positions of %zu tokens, after %u", n, tokens.size(), sequence.n_pos());
  const std::vector<SavedBlock> blocks = saved_blocks(found);
  const auto n_blocks = static_cast<uint32_t>(blocks.size());
  STRATA_CHECK(n_blocks == blocks_for(n), "%u blocks for %u positions", n_blocks, n);
  RegionReader regions(store_);
  const auto read_blocks = [&](uint32_t layer, uint32_t first, uint32_t end) {
    const uint32_t n_heads = shape_.layers[layer].n_kv_heads;
    if (!store_.make_room(uint64_t{end - first} * n_heads))
      refuse_rows(uint64_t{end - first} * n_heads);
    for (uint32_t i = first; i < end; ++i)
      for (uint32_t head = 0; head < n_heads; ++head) {
        const std::byte* bytes = regions.block(blocks[i], layer, head, layout_.block_bytes);
        const auto block = append_block(sequence.streams_[stream_idx(layer, head)]);
        std::memcpy(store_.open_bytes(block), bytes, layout_.block_bytes);
      }
  };
  const tiers::PackReader* open_pack = nullptr;  // the last one: looking for it is a system call
  tiers::IoFile open_file{};
  const auto take_up = [&](uint32_t layer, uint32_t first) {
    const SavedBlock& begin = blocks[first];
    if (const tiers::PackReader* pack = begin.piece->pack.get(); pack != open_pack) {
      open_file = store_.add_pack(*pack);
      open_pack = pack;
    }
    const uint32_t n_heads = shape_.layers[layer].n_kv_heads;
    extent_blocks_.resize(uint64_t{n_heads} * kExtentBlocks);
    for (uint32_t head = 0; head < n_heads; ++head) {
      auto& table = sequence.streams_[stream_idx(layer, head)].blocks;
      make_room_for(table, table.size() + kExtentBlocks);
    }
    store_.adopt({.pack = begin.piece->pack,
                  .file = open_file,
                  .pack_extent = begin.pack_extent(),
                  .layer = layer,
                  .first_pos = first * kBlockPositions},
                 extent_blocks_);
    for (uint32_t head = 0; head < n_heads; ++head) {
      auto& table = sequence.streams_[stream_idx(layer, head)].blocks;
      const auto from = extent_blocks_.begin() + std::ptrdiff_t{head} * kExtentBlocks;
      table.insert(table.end(), from, from + kExtentBlocks);
    }
  };
  for (uint32_t layer = 0; layer < shape_.n_layers; ++layer) {
    const uint32_t window = shape_.layers[layer].window;
    if (window > 0) {
      const uint32_t first = n + 1 <= window ? 0 : (n + 1 - window) / kBlockPositions;
      for (uint32_t head = 0; head < shape_.layers[layer].n_kv_heads; ++head)
        sequence.streams_[stream_idx(layer, head)].first_block = first;
      read_blocks(layer, first, n_blocks);
      continue;
    }
    for (uint32_t first = 0; first < n_blocks; first += kExtentBlocks) {
      if (first + kExtentBlocks <= n_blocks && is_whole_extent(blocks, first, n)) {
        take_up(layer, first);
      } else {
        read_blocks(layer, first, std::min(first + kExtentBlocks, n_blocks));
      }
    }
  }
  close_rows(sequence, tokens.first(n));
  sequence.n_exact_ = n;
}

}  // namespace strata::engine
