#include "engine/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "base/room_for.h"

namespace strata::engine {
namespace {

/// Blocks a windowed stream holds at most: window - 1 old positions and a chunk, at any offset
/// inside blocks.
uint64_t windowed_blocks(uint32_t window, uint32_t chunk_rows) {
  return blocks_for(uint64_t{window} - 1 + chunk_rows) + 1;
}

}  // namespace

uint64_t stream_blocks_max(const LayerShape& layer, uint64_t n_ctx, uint32_t chunk_rows) {
  const uint64_t all = blocks_for(n_ctx);
  return layer.window == 0 ? all : std::min(all, windowed_blocks(layer.window, chunk_rows));
}

uint64_t kv_bytes_for_context(const ModelShape& shape, KvCodec k_codec, KvCodec v_codec,
                              uint64_t n_ctx, uint32_t chunk_rows) {
  const KvLayout layout = KvLayout::make(k_codec, v_codec, shape.head_dim);
  uint64_t n_blocks = 0;
  for (const auto& layer : shape.layers)
    n_blocks += stream_blocks_max(layer, n_ctx, chunk_rows) * layer.n_kv_heads;
  return n_blocks * layout.block_bytes;
}

index::IndexShape index_shape(const ModelShape& shape, KvCodec k_codec, KvCodec v_codec,
                              uint64_t n_ctx, uint32_t n_sequences) {
  index::IndexShape of{.layout = KvLayout::make(k_codec, v_codec, shape.head_dim),
                       .n_blocks = static_cast<uint32_t>(n_ctx / kBlockPositions),
                       .n_sequences = n_sequences};
  for (const LayerShape& layer : shape.layers)
    if (layer.window == 0) of.n_streams += layer.n_kv_heads;
  return of;
}

KvCache::KvCache(const ModelShape& shape, const KvCacheOptions& options,
                 std::unique_ptr<tiers::Spill> spill)
    : shape_(shape),
      options_(options),
      layout_(KvLayout::make(options.k_codec, options.v_codec, shape.head_dim)),
      store_(layout_, shape.n_layers, options.budget_bytes, options.model, std::move(spill)) {
  stream_begin_.push_back(0);
  index_begin_.push_back(0);
  for (uint32_t layer = 0; layer < shape_.n_layers; ++layer) {
    stream_begin_.push_back(stream_begin_.back() + shape_.layers[layer].n_kv_heads);
    layer_of_stream_.resize(stream_begin_.back(), layer);
    const bool is_full = shape_.layers[layer].window == 0;
    index_begin_.push_back(index_begin_.back() + (is_full ? shape_.layers[layer].n_kv_heads : 0));
  }
  // A context that DRAM holds whole may take all of it; else the next step's rows come first.
  store_.set_headroom(
      store_.has_spill() ? (blocks_for(options_.chunk_rows) + 1) * stream_begin_.back() : 0);
}

Sequence KvCache::make_sequence(const tiers::Hash128& root) {
  Sequence sequence(this, root);
  sequence.edition_ = next_edition();
  sequence.streams_.resize(stream_begin_.back());
  reserve_tables(sequence);
  if (options_.selectors != nullptr) sequence.index_ = options_.selectors->make();
  return sequence;
}

uint32_t KvCache::layer_of_index_stream(index::StreamIdx stream) const {
  const auto after = std::ranges::upper_bound(index_begin_, stream);
  return static_cast<uint32_t>(after - index_begin_.begin()) - 1;
}

void KvCache::reserve_tables(Sequence& sequence) const {
  sequence.tokens_.reserve(options_.n_ctx);
  sequence.chain_.reserve(options_.n_ctx / kBlockPositions);
  if (options_.selectors != nullptr) sequence.is_selected_.reserve(options_.n_ctx);
  for (uint32_t stream = 0; stream < sequence.streams_.size(); ++stream)
    sequence.streams_[stream].blocks.reserve(stream_blocks_max(
        shape_.layers[layer_of_stream_[stream]], options_.n_ctx, options_.chunk_rows));
}

uint32_t KvCache::first_block_to_hold(uint32_t layer, uint32_t end_pos) const {
  const uint32_t window = shape_.layers[layer].window;
  const uint64_t held = uint64_t{window} - 1 + options_.chunk_rows;
  return window == 0 || end_pos <= held ? 0
                                        : static_cast<uint32_t>((end_pos - held) / kBlockPositions);
}

void KvCache::release_before(StreamTable& table, uint32_t block_idx) {
  if (block_idx <= table.first_block) return;
  const uint32_t n =
      std::min(block_idx - table.first_block, static_cast<uint32_t>(table.blocks.size()));
  for (uint32_t i = 0; i < n; ++i) store_.release(table.blocks[i]);
  table.blocks.erase(table.blocks.begin(), table.blocks.begin() + n);
  table.first_block += n;
}

void KvCache::release_from(StreamTable& table, uint32_t block_idx) {
  while (!table.blocks.empty() && table.end_block() > block_idx) {
    store_.release(table.blocks.back());
    table.blocks.pop_back();
  }
}

tiers::BlockId KvCache::open_counted(tiers::BlockId previous) {
  const auto block = store_.open_block(previous);
  STRATA_CHECK(block.has_value(), "no free block of those counted");
  return *block;
}

/// A block at the end of a table, in a slot that was counted as free.
tiers::BlockId KvCache::append_block(StreamTable& table) {
  auto& blocks = table.blocks;
  make_room_for(blocks, blocks.size() + 1);  // what is not in a table is nobody's
  blocks.push_back(open_counted(blocks.empty() ? tiers::kNoBlock : blocks.back()));
  return blocks.back();
}

bool KvCache::must_copy(tiers::BlockId open) const {
  return store_.references(open) > 1 || store_.is_frozen(open);
}

void KvCache::wait_for_disk() {
  if (store_.wait_for_transfer()) return;
  throw store_.silent_error("no memory to read into became free");
}

/// Reads an extent back; it stays readable until it is released.
void KvCache::hold(tiers::ExtentId extent) {
  while (!store_.fetch(extent)) wait_for_disk();
  try {
    store_.take({&extent, 1}, serial_);
  } catch (...) {
    store_.release(extent);
    throw;
  }
}

/// Replaces the last block of a table by a copy of its own in DRAM.
void KvCache::copy_open_block(StreamTable& table) {
  const tiers::BlockId from = table.blocks.back();
  const tiers::BlockId own = open_counted(tiers::kNoBlock);
  const bool is_away = !store_.is_resident(from);
  const tiers::ExtentId extent = store_.extent_of(from);
  // What is read for the copy takes no slot: open_rows() has counted all of them.
  const uint64_t headroom = store_.headroom();
  store_.set_headroom(UINT64_MAX);
  try {
    if (is_away) hold(extent);
  } catch (...) {
    store_.set_headroom(headroom);
    store_.release(own);
    throw;
  }
  store_.set_headroom(headroom);
  std::memcpy(store_.open_bytes(own), store_.bytes(from), layout_.block_bytes);
  if (is_away) store_.release(extent);
  store_.release(from);
  table.blocks.back() = own;
}

std::vector<tiers::ExtentId> KvCache::away_extents(const Sequence& sequence,
                                                   uint32_t first_pos) const {
  std::vector<tiers::ExtentId> away;
  for (uint32_t layer = 0; layer < shape_.n_layers; ++layer) {
    if (shape_.layers[layer].window > 0) continue;
    for (uint32_t head = 0; head < shape_.layers[layer].n_kv_heads; ++head)
      for (uint32_t i = 0; i < kExtentBlocks; ++i) {
        const auto id = block_id(sequence, layer, head, first_pos + i * kBlockPositions);
        if (store_.is_resident(id)) continue;
        const tiers::ExtentId extent = store_.extent_of(id);
        if (std::ranges::find(away, extent) == away.end()) away.push_back(extent);
      }
  }
  return away;
}

ExtentBytes KvCache::hold_extent(const Sequence& sequence, uint32_t layer, uint32_t first_pos,
                                 uint32_t n_blocks) {
  ExtentBytes held;
  const uint32_t n_heads = shape_.layers[layer].n_kv_heads;
  held.blocks.reserve(uint64_t{n_heads} * n_blocks);
  held.holds.reserve(uint64_t{n_heads} * n_blocks);
  try {
    for (uint32_t head = 0; head < n_heads; ++head)
      for (uint32_t i = 0; i < n_blocks; ++i) {
        const auto id = block_id(sequence, layer, head, first_pos + i * kBlockPositions);
        if (id != tiers::kNoBlock && !store_.is_readable(id)) {
          hold(store_.extent_of(id));
          held.holds.push_back(store_.extent_of(id));
        }
        held.blocks.push_back(id == tiers::kNoBlock ? nullptr : store_.bytes(id));
      }
  } catch (...) {
    release_extent(held);
    throw;
  }
  return held;
}

void KvCache::release_extent(const ExtentBytes& held) {
  for (const tiers::ExtentId extent : held.holds) store_.release(extent);
}

void KvCache::open_rows(Sequence& sequence, uint32_t n_rows) {
  STRATA_CHECK(n_rows >= 1 && n_rows <= options_.chunk_rows, "%u rows in chunks of %u", n_rows,
               options_.chunk_rows);
  const uint32_t n_pos = sequence.n_pos();
  const uint32_t end_pos = n_pos + n_rows;
  const auto end_block = static_cast<uint32_t>(blocks_for(end_pos));
  const bool has_open = n_pos % kBlockPositions != 0;
  if (sequence.index_) sequence.index_->open_blocks(end_pos / kBlockPositions);
  // Count first, so that a step that cannot be held changes nothing.
  uint64_t n_wanted = 0;
  uint64_t n_given_back = 0;
  for (uint32_t stream = 0; stream < sequence.streams_.size(); ++stream) {
    const StreamTable& table = sequence.streams_[stream];
    const uint32_t first = first_block_to_hold(layer_of_stream_[stream], end_pos);
    for (uint32_t block = table.first_block; block < std::min(first, table.end_block()); ++block)
      if (store_.references(table.blocks[block - table.first_block]) == 1) ++n_given_back;
    n_wanted += end_block - std::min(end_block, table.end_block());
    if (has_open && must_copy(table.blocks.back())) ++n_wanted;
  }
  if (n_wanted > n_given_back && !store_.make_room(n_wanted - n_given_back)) refuse_rows(n_wanted);
  for (uint32_t stream = 0; stream < sequence.streams_.size(); ++stream)
    release_before(sequence.streams_[stream],
                   first_block_to_hold(layer_of_stream_[stream], end_pos));
  for (auto& table : sequence.streams_) {
    if (has_open && must_copy(table.blocks.back())) copy_open_block(table);
    while (table.end_block() < end_block) append_block(table);
  }
}

void KvCache::refuse_rows(uint64_t n_wanted) const {
  const tiers::BlockPool& pool = store_.pool();
  std::string message = "the KV budget of " + std::to_string(pool.budget_bytes()) +
                        " bytes is full: " + std::to_string(n_wanted) + " blocks wanted, " +
                        std::to_string(pool.n_free()) + " free";
  // As any lack of room, for which drafts and idle texts give way.
  if (store_.n_lost_slots() > 0)
    throw Error(ErrorCode::kDoesNotFit,
                message + ", and " + std::to_string(store_.n_lost_slots()) +
                    " belong to reads of saved contexts that the disk has not answered",
                "--kv-dram", "look at the disk (dmesg), or raise --kv-dram");
  if (!store_.has_spill())
    throw Error(ErrorCode::kDoesNotFit, message, "--kv-dram",
                "raise --kv-dram, use -ctk q8_0 -ctv q8_0, or a smaller -c");
  if (store_.last_failure() != tiers::IoStatus::kOk)
    throw Error(ErrorCode::kIo,
                message + ", and the spill file takes no more: " +
                    std::string(tiers::io_status_name(store_.last_failure())) + " (" +
                    std::string(tiers::io_status_cause(store_.last_failure())) + ")",
                "--nvme",
                "free space on the disk, name another one with --nvme, or raise --kv-dram");
  throw Error(ErrorCode::kDoesNotFit, message + ", and the spill file is at its budget",
              "--nvme-budget", "raise --nvme-budget or --kv-dram, or use a smaller -c");
}

void KvCache::close_rows(Sequence& sequence, std::span<const int32_t> tokens) {
  sequence.tokens_.insert(sequence.tokens_.end(), tokens.begin(), tokens.end());
  auto& chain = sequence.chain_;
  while (chain.size() < sequence.n_pos() / kBlockPositions)
    chain.push_back(tiers::extend_chain(
        sequence.chain_at(static_cast<uint32_t>(chain.size()) * kBlockPositions),
        std::span(sequence.tokens_).subspan(chain.size() * kBlockPositions, kBlockPositions)));
  if (!store_.has_spill()) return;
  const uint32_t end_extent = sequence.n_pos() / kExtentPositions;
  bool is_frozen = false;
  try {
    is_frozen = freeze_closed(sequence, end_extent);
  } catch (...) {
    store_.begin_writes();
    throw;
  }
  store_.begin_writes();
  if (is_frozen) sequence.next_extent_ = end_extent;
}

/// All of a layer before the next layer: their places follow each other. False where it was stopped
/// while it waited for the disk; what is frozen by then is passed over the next time.
bool KvCache::freeze_closed(const Sequence& sequence, uint32_t end_extent) {
  for (uint32_t layer = 0; layer < shape_.n_layers; ++layer) {
    if (shape_.layers[layer].window > 0) continue;
    for (uint32_t extent = sequence.next_extent_; extent < end_extent; ++extent)
      if (!freeze_extent(sequence, layer, extent, end_extent - extent)) return false;
  }
  return true;
}

/// It is the first of a run. False likewise.
bool KvCache::freeze_extent(const Sequence& sequence, uint32_t layer, uint32_t extent_idx,
                            uint32_t n_run) {
  const uint32_t first = extent_idx * kExtentBlocks;
  extent_blocks_.clear();
  bool is_any_open = false;
  for (uint32_t stream = stream_begin_[layer]; stream < stream_begin_[layer + 1]; ++stream)
    for (uint32_t i = 0; i < kExtentBlocks; ++i) {
      const tiers::BlockId block = sequence.streams_[stream].blocks[first + i];
      const bool is_open = !store_.is_frozen(block);
      extent_blocks_.push_back(is_open ? block : tiers::kNoBlock);
      is_any_open = is_any_open || is_open;
    }
  if (!is_any_open) return true;
  return store_.freeze(layer, extent_idx * kExtentPositions,
                       std::span(sequence.chain_).subspan(first, kExtentBlocks), extent_blocks_,
                       n_run);
}

void KvCache::abandon_rows(Sequence& sequence) {
  const auto end_block = static_cast<uint32_t>(blocks_for(sequence.n_pos()));
  if (sequence.index_) sequence.index_->truncate(sequence.n_pos() / kBlockPositions);
  for (auto& table : sequence.streams_) release_from(table, std::max(end_block, table.first_block));
}

tiers::BlockId KvCache::block_id(const Sequence& sequence, uint32_t layer, uint32_t kv_head,
                                 uint32_t pos) const {
  const StreamTable& table = sequence.streams_[stream_idx(layer, kv_head)];
  const uint32_t idx = pos / kBlockPositions;
  if (idx < table.first_block) return tiers::kNoBlock;
  STRATA_CHECK(idx < table.end_block(), "position %u of a stream with %u blocks", pos,
               table.end_block());
  return table.blocks[idx - table.first_block];
}

const std::byte* KvCache::block(const Sequence& sequence, uint32_t layer, uint32_t kv_head,
                                uint32_t pos) const {
  const tiers::BlockId id = block_id(sequence, layer, kv_head, pos);
  return id == tiers::kNoBlock ? nullptr : store_.bytes(id);
}

std::byte* KvCache::open_block(const Sequence& sequence, uint32_t layer, uint32_t kv_head,
                               uint32_t pos) {
  const tiers::BlockId id = block_id(sequence, layer, kv_head, pos);
  STRATA_CHECK(id != tiers::kNoBlock, "position %u is not held", pos);
  return store_.open_bytes(id);
}

void KvCache::share_blocks(Sequence& sequence, Sequence& again, uint32_t first_pos,
                           uint32_t end_pos, bool is_repair) {
  sequence.edition_ = next_edition();
  again.edition_ = next_edition();
  for (uint32_t stream = 0; stream < sequence.streams_.size(); ++stream) {
    if (shape_.layers[layer_of_stream_[stream]].window > 0) continue;
    const auto& shared = sequence.streams_[stream].blocks;
    auto& own = again.streams_[stream].blocks;
    for (uint32_t i = first_pos / kBlockPositions; i < end_pos / kBlockPositions; ++i)
      if (own[i] != shared[i]) store_.leave_partly_resident(shared[i]);
    for (uint32_t i = first_pos / kBlockPositions; i < end_pos / kBlockPositions; ++i) {
      if (own[i] == shared[i]) continue;
      if (!store_.is_resident(shared[i])) store_.replace(shared[i], own[i], is_repair);
      store_.add_reference(shared[i]);
      store_.release(own[i]);
      own[i] = shared[i];
    }
  }
}

void KvCache::replace_extents(Sequence& sequence, Sequence& again, uint32_t first_pos) {
  sequence.edition_ = next_edition();
  again.edition_ = next_edition();
  const uint32_t first = first_pos / kBlockPositions;
  for (uint32_t stream = 0; stream < sequence.streams_.size(); ++stream) {
    if (shape_.layers[layer_of_stream_[stream]].window > 0) continue;
    auto& blocks = sequence.streams_[stream].blocks;
    const auto& fresh = again.streams_[stream].blocks;
    const auto end = std::min<size_t>(first + kExtentBlocks, fresh.size());
    for (size_t i = first; i < end; ++i) store_.leave_partly_resident(blocks[i]);
    for (size_t i = first; i < end; ++i) {
      if (store_.is_resident(blocks[i])) continue;
      if ((i + 1) * kBlockPositions <= again.n_pos()) {
        store_.replace(blocks[i], fresh[i], true);
        continue;
      }
      // The sequence was cut inside this block; another one may need all of its rows.
      store_.add_reference(fresh[i]);
      store_.release(blocks[i]);
      blocks[i] = fresh[i];
    }
  }
}

}  // namespace strata::engine
