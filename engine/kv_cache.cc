#include "engine/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"

namespace strata::engine {
namespace {

uint64_t blocks_for(uint64_t n_positions) { return div_up(n_positions, kBlockPositions); }

/// Blocks a windowed stream holds at most: window - 1 old positions and a chunk, at any offset
/// inside blocks.
uint64_t windowed_blocks(uint32_t window, uint32_t chunk_rows) {
  return blocks_for(uint64_t{window} - 1 + chunk_rows) + 1;
}

/// Blocks that one stream of a layer holds at most in a sequence of n_ctx positions.
uint64_t stream_blocks(const LayerShape& layer, uint64_t n_ctx, uint32_t chunk_rows) {
  const uint64_t all = blocks_for(n_ctx);
  return layer.window == 0 ? all : std::min(all, windowed_blocks(layer.window, chunk_rows));
}

/// A slot that open_rows has counted as free.
tiers::SlotId take_counted(tiers::BlockPool& pool, tiers::SlotId previous) {
  const auto slot = pool.take(previous);
  STRATA_CHECK(slot.has_value(), "no free block of those counted");
  return *slot;
}

}  // namespace

uint64_t kv_bytes_for_context(const ModelShape& shape, KvCodec k_codec, KvCodec v_codec,
                              uint64_t n_ctx, uint32_t chunk_rows) {
  const KvLayout layout = KvLayout::make(k_codec, v_codec, shape.head_dim);
  uint64_t n_blocks = 0;
  for (const auto& layer : shape.layers)
    n_blocks += stream_blocks(layer, n_ctx, chunk_rows) * layer.n_kv_heads;
  return n_blocks * layout.block_bytes;
}

KvCache::KvCache(const ModelShape& shape, const KvCacheOptions& options)
    : shape_(shape),
      options_(options),
      layout_(KvLayout::make(options.k_codec, options.v_codec, shape.head_dim)),
      pool_(options.budget_bytes, layout_.block_bytes) {
  stream_begin_.push_back(0);
  for (uint32_t layer = 0; layer < shape_.n_layers; ++layer) {
    stream_begin_.push_back(stream_begin_.back() + shape_.layers[layer].n_kv_heads);
    layer_of_stream_.resize(stream_begin_.back(), layer);
  }
}

Sequence KvCache::make_sequence() {
  Sequence sequence(this);
  sequence.streams_.resize(stream_begin_.back());
  reserve_tables(sequence);
  return sequence;
}

void KvCache::reserve_tables(Sequence& sequence) const {
  sequence.tokens_.reserve(options_.n_ctx);
  for (uint32_t stream = 0; stream < sequence.streams_.size(); ++stream)
    sequence.streams_[stream].slots.reserve(stream_blocks(shape_.layers[layer_of_stream_[stream]],
                                                          options_.n_ctx, options_.chunk_rows));
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
      std::min(block_idx - table.first_block, static_cast<uint32_t>(table.slots.size()));
  for (uint32_t i = 0; i < n; ++i) pool_.release(table.slots[i]);
  table.slots.erase(table.slots.begin(), table.slots.begin() + n);
  table.first_block += n;
}

void KvCache::release_from(StreamTable& table, uint32_t block_idx) {
  while (!table.slots.empty() && table.end_block() > block_idx) {
    pool_.release(table.slots.back());
    table.slots.pop_back();
  }
}

void KvCache::open_rows(Sequence& sequence, uint32_t n_rows) {
  STRATA_CHECK(n_rows >= 1 && n_rows <= options_.chunk_rows, "%u rows in chunks of %u", n_rows,
               options_.chunk_rows);
  const uint32_t n_pos = sequence.n_pos();
  const uint32_t end_pos = n_pos + n_rows;
  const auto end_block = static_cast<uint32_t>(blocks_for(end_pos));
  const bool has_open = n_pos % kBlockPositions != 0;
  // Count first, so that a step that cannot be held changes nothing.
  uint64_t n_wanted = 0;
  uint64_t n_given_back = 0;
  for (uint32_t stream = 0; stream < sequence.streams_.size(); ++stream) {
    const StreamTable& table = sequence.streams_[stream];
    const uint32_t first = first_block_to_hold(layer_of_stream_[stream], end_pos);
    for (uint32_t block = table.first_block; block < std::min(first, table.end_block()); ++block)
      if (pool_.references(table.slots[block - table.first_block]) == 1) ++n_given_back;
    n_wanted += end_block - std::min(end_block, table.end_block());
    if (has_open && pool_.references(table.slots.back()) > 1) ++n_wanted;
  }
  if (n_wanted > n_given_back + pool_.n_free())
    throw Error(ErrorCode::kDoesNotFit,
                "the KV budget of " + std::to_string(pool_.budget_bytes()) +
                    " bytes is full: " + std::to_string(n_wanted) + " blocks wanted, " +
                    std::to_string(pool_.n_free()) + " free",
                "--kv-dram", "raise --kv-dram, use -ctk q8_0 -ctv q8_0, or a smaller -c");
  for (uint32_t stream = 0; stream < sequence.streams_.size(); ++stream)
    release_before(sequence.streams_[stream],
                   first_block_to_hold(layer_of_stream_[stream], end_pos));
  for (auto& table : sequence.streams_) {
    if (has_open && pool_.references(table.slots.back()) > 1) {
      const tiers::SlotId own = take_counted(pool_, tiers::kNoSlot);
      std::memcpy(pool_.address(own), pool_.address(table.slots.back()), layout_.block_bytes);
      pool_.release(table.slots.back());
      table.slots.back() = own;
    }
    while (table.end_block() < end_block)
      table.slots.push_back(
          take_counted(pool_, table.slots.empty() ? tiers::kNoSlot : table.slots.back()));
  }
}

void KvCache::close_rows(Sequence& sequence, std::span<const int32_t> tokens) {
  sequence.tokens_.insert(sequence.tokens_.end(), tokens.begin(), tokens.end());
}

void KvCache::abandon_rows(Sequence& sequence) {
  const auto end_block = static_cast<uint32_t>(blocks_for(sequence.n_pos()));
  for (auto& table : sequence.streams_) release_from(table, std::max(end_block, table.first_block));
}

std::byte* KvCache::block(const Sequence& sequence, uint32_t layer, uint32_t kv_head,
                          uint32_t pos) const {
  const StreamTable& table = sequence.streams_[stream_idx(layer, kv_head)];
  const uint32_t idx = pos / kBlockPositions;
  if (idx < table.first_block) return nullptr;
  STRATA_CHECK(idx < table.end_block(), "position %u of a stream with %u blocks", pos,
               table.end_block());
  return pool_.address(table.slots[idx - table.first_block]);
}

}  // namespace strata::engine
