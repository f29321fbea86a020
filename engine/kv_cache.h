// engine/kv_cache.h - the KV blocks of all sequences in one DRAM arena of a stated budget.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/kv_layout.h"
#include "base/model_shape.h"
#include "engine/sequence.h"
#include "tiers/block_pool.h"

namespace strata::engine {

struct KvCacheOptions {
  KvCodec k_codec = KvCodec::kF16;
  KvCodec v_codec = KvCodec::kF16;
  uint64_t budget_bytes = 0;  // of the arena
  // Largest step. A windowed layer holds its window and as many rows more: enough for a step, and
  // for a truncate() by one.
  uint32_t chunk_rows = 512;
  // Positions a sequence is expected to have: its tables are reserved for them (4 bytes per token,
  // and per block of each stream), so that its steps allocate nothing. 0 = they grow.
  uint64_t n_ctx = 0;
};

/// Bytes of blocks that one sequence of n_ctx positions holds at most, walked in chunks of
/// chunk_rows: full layers every position, windowed layers window + chunk,
/// each rounded up to blocks.
uint64_t kv_bytes_for_context(const ModelShape& shape, KvCodec k_codec, KvCodec v_codec,
                              uint64_t n_ctx, uint32_t chunk_rows);

class KvCache {
 public:
  /// Reserves the arena. Errors: kOutOfMemory; kDoesNotFit where the budget holds no block.
  KvCache(const ModelShape& shape, const KvCacheOptions& options);
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  Sequence make_sequence();
  const KvLayout& layout() const { return layout_; }
  const ModelShape& shape() const { return shape_; }
  const tiers::BlockPool& pool() const { return pool_; }

  /// Makes room for rows [n_pos, n_pos + n_rows) of `sequence` in every stream: opens blocks,
  /// copies a shared open block; windowed layers let go of the blocks that no row from here on can
  /// attend. Errors: kDoesNotFit; the sequence is as before.
  void open_rows(Sequence& sequence, uint32_t n_rows);
  /// The walk has filled the rows: their tokens now belong to the sequence.
  void close_rows(Sequence& sequence, std::span<const int32_t> tokens);
  /// Undoes open_rows after a step that failed. What windowed layers have let go of stays gone: no
  /// row from n_pos() on attends it, but a truncate() may keep less than it would have.
  void abandon_rows(Sequence& sequence);

  /// Block that holds position pos of a stream, or null where a windowed layer has let go of it.
  std::byte* block(const Sequence& sequence, uint32_t layer, uint32_t kv_head, uint32_t pos) const;

 private:
  friend class Sequence;
  using StreamTable = Sequence::StreamTable;
  uint32_t stream_idx(uint32_t layer, uint32_t kv_head) const {
    return stream_begin_[layer] + kv_head;
  }
  void reserve_tables(Sequence& sequence) const;
  uint32_t first_block_to_hold(uint32_t layer, uint32_t end_pos) const;
  void release_before(StreamTable& table, uint32_t block_idx);
  void release_from(StreamTable& table, uint32_t block_idx);
  ModelShape shape_;
  KvCacheOptions options_;
  KvLayout layout_;
  std::vector<uint32_t> stream_begin_;  // [n_layers + 1]
  std::vector<uint32_t> layer_of_stream_;
  tiers::BlockPool pool_;
};

}  // namespace strata::engine
