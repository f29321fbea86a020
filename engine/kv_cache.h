// engine/kv_cache.h - the KV of all sequences in a DRAM arena of a stated budget and, where there
// is a spill file, on NVMe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/checked_math.h"
#include "base/kv_layout.h"
#include "base/model_shape.h"
#include "engine/sequence.h"
#include "index/method.h"
#include "tiers/block_store.h"
#include "tiers/pack_directory.h"

namespace strata::engine {

struct KvCacheOptions {
  KvCodec k_codec = KvCodec::kF16;
  KvCodec v_codec = KvCodec::kF16;
  uint64_t budget_bytes = 0;  // of the arena
  // Largest step. A windowed layer holds its window and as many rows more: enough for a step, and
  // for a truncate() by one.
  uint32_t chunk_rows = 512;
  // Names the model in the tags of blocks on disk.
  tiers::Hash128 model = {};
  // Positions a sequence is expected to have: its tables are reserved for them (4 bytes per token,
  // and per block of each stream), so that its steps allocate nothing. 0 = they grow.
  uint64_t n_ctx = 0;
  // Makes the indexes of sequences; null = none have one. Outlives the cache.
  const index::SelectorSource* selectors = nullptr;
};

/// Bytes of blocks that one sequence of n_ctx positions holds at most, walked in chunks of
/// chunk_rows: full layers every position, windowed layers window + chunk,
/// each rounded up to blocks.
uint64_t kv_bytes_for_context(const ModelShape& shape, KvCodec k_codec, KvCodec v_codec,
                              uint64_t n_ctx, uint32_t chunk_rows);

/// What the index of a sequence of n_ctx positions is made for: the KV heads of full layers.
/// `n_sequences` share that many positions.
index::IndexShape index_shape(const ModelShape& shape, KvCodec k_codec, KvCodec v_codec,
                              uint64_t n_ctx, uint32_t n_sequences = 1);

/// Blocks that one stream of a layer holds at most in such a sequence.
uint64_t stream_blocks_max(const LayerShape& layer, uint64_t n_ctx, uint32_t chunk_rows);

/// The blocks of one layer of an extent, held in memory. blocks [n_kv_heads][n_blocks]; null where
/// a windowed layer has let go of a block.
struct ExtentBytes {
  std::vector<const std::byte*> blocks;
  std::vector<tiers::ExtentId> holds;
};

class KvCache {
 public:
  /// Reserves the arena. Errors: kOutOfMemory; kDoesNotFit where the budget holds no block.
  KvCache(const ModelShape& shape, const KvCacheOptions& options,
          std::unique_ptr<tiers::Spill> spill = nullptr);
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  /// `root` is the chain hash before its first position: the same tokens after another root are
  /// another text, whose blocks have other tags and are saved apart.
  Sequence make_sequence(const tiers::Hash128& root = {});
  /// A sequence for what was found with this root: it has no positions yet, and its index room for
  /// their rows. Errors: kDoesNotFit.
  Sequence make_for(const tiers::FoundContext& found, const tiers::Hash128& root = {});
  /// Gives it the saved positions of `tokens`; its index is left alone. Needs a store that can
  /// adopt. Errors: kIo, kBadFile (a pack whose bytes are not what was saved), kDoesNotFit; then
  /// the sequence can only be dropped.
  void restore(const tiers::FoundContext& found, std::span<const int32_t> tokens,
               Sequence& sequence);
  const KvLayout& layout() const { return layout_; }
  const ModelShape& shape() const { return shape_; }
  uint32_t chunk_rows() const { return options_.chunk_rows; }
  const tiers::BlockPool& pool() const { return store_.pool(); }
  tiers::BlockStore& store() { return store_; }
  const tiers::BlockStore& store() const { return store_; }
  /// What makes the indexes of sequences; null where they have none.
  const index::SelectorSource* selectors() const { return options_.selectors; }

  /// Makes room for rows [n_pos, n_pos + n_rows) of `sequence` in every stream: opens blocks,
  /// copies an open block that is shared or frozen; windowed layers let go of the blocks that no
  /// row from here on can attend; full layers may move blocks out of DRAM. Errors: kDoesNotFit,
  /// and the sequence is as before; LostExtent, then abandon_rows().
  void open_rows(Sequence& sequence, uint32_t n_rows);
  /// The walk has filled the rows: their tokens now belong to the sequence, and what became whole
  /// extents of full layers is frozen, where the step was stopped by the next call.
  void close_rows(Sequence& sequence, std::span<const int32_t> tokens);
  /// Undoes open_rows after a step that failed. What windowed layers have let go of stays gone: no
  /// row from n_pos() on attends it, but a truncate() may keep less than it would have.
  void abandon_rows(Sequence& sequence);

  /// KV heads of full layers, which are the streams of an index: those of the layers before
  /// `layer`.
  index::StreamIdx index_stream(uint32_t layer, uint32_t kv_head) const {
    return index_begin_[layer] + kv_head;
  }
  uint32_t n_index_streams() const { return index_begin_.back(); }
  /// Of an index stream.
  uint32_t layer_of_index_stream(index::StreamIdx stream) const;

  /// The blocks of a stream, oldest first, and which one of the text is the first of them: more
  /// than 0 where a windowed layer has let go of some. Valid until the sequence changes.
  struct StreamBlocks {
    std::span<const tiers::BlockId> blocks;
    uint32_t first_block;
  };
  StreamBlocks stream_blocks(const Sequence& sequence, uint32_t layer, uint32_t kv_head) const {
    const StreamTable& table = sequence.streams_[stream_idx(layer, kv_head)];
    return {table.blocks, table.first_block};
  }
  /// The block that holds position pos of a stream; kNoBlock where a windowed layer has let go of
  /// it.
  tiers::BlockId block_id(const Sequence& sequence, uint32_t layer, uint32_t kv_head,
                          uint32_t pos) const;
  /// Its bytes, or null where a windowed layer has let go of it. A block that was moved out of DRAM
  /// must be held by then (tiers::BlockStore::take).
  const std::byte* block(const Sequence& sequence, uint32_t layer, uint32_t kv_head,
                         uint32_t pos) const;
  /// Where fetch() has nothing to read into: until a transfer ends. Errors: kIo where none does in
  /// time; kCancelled.
  void wait_for_disk();
  uint32_t n_streams() const { return stream_begin_.back(); }
  uint32_t stream_idx(uint32_t layer, uint32_t kv_head) const {
    return stream_begin_[layer] + kv_head;
  }
  /// The bytes of an open block, to be filled.
  std::byte* open_block(const Sequence& sequence, uint32_t layer, uint32_t kv_head, uint32_t pos);

  /// The extents of full layers at positions [first_pos, first_pos + 256) that only a file holds,
  /// each once.
  std::vector<tiers::ExtentId> away_extents(const Sequence& sequence, uint32_t first_pos) const;
  /// Reads back what of these blocks is not in DRAM. Errors: LostExtent, kIo. Then
  /// release_extent().
  ExtentBytes hold_extent(const Sequence& sequence, uint32_t layer, uint32_t first_pos,
                          uint32_t n_blocks);
  void release_extent(const ExtentBytes& held);

  /// Gives `sequence` the blocks that `again` has computed in place of those of full layers that
  /// are not in DRAM, at the positions of a lost extent: the same bytes (law L1), wherever they lie
  /// now. Of every layer, since where one is lost, its neighbours on the disk often are as well.
  /// `again` holds the extent's positions.
  void replace_extents(Sequence& sequence, Sequence& again, uint32_t first_pos);
  /// Lets both have one block where each has its own, of full layers, whole blocks of positions
  /// [first_pos, end_pos): the one of `sequence` where that is in DRAM, else the one that `again`
  /// has computed, since what is on disk may be lost as well.
  void share_blocks(Sequence& sequence, Sequence& again, uint32_t first_pos, uint32_t end_pos,
                    bool is_repair);

 private:
  friend class Sequence;
  using StreamTable = Sequence::StreamTable;
  uint64_t next_edition() { return ++n_editions_; }
  void reserve_tables(Sequence& sequence) const;
  uint32_t first_block_to_hold(uint32_t layer, uint32_t end_pos) const;
  void release_before(StreamTable& table, uint32_t block_idx);
  void release_from(StreamTable& table, uint32_t block_idx);
  [[noreturn]] void refuse_rows(uint64_t n_wanted) const;
  /// A block in a slot that was counted as free.
  tiers::BlockId open_counted(tiers::BlockId previous);
  tiers::BlockId append_block(StreamTable& table);
  bool must_copy(tiers::BlockId open) const;
  void copy_open_block(StreamTable& table);
  void hold(tiers::ExtentId extent);
  bool freeze_closed(const Sequence& sequence, uint32_t end_extent);
  bool freeze_extent(const Sequence& sequence, uint32_t layer, uint32_t extent_idx, uint32_t n_run);
  ModelShape shape_;
  KvCacheOptions options_;
  KvLayout layout_;
  std::vector<uint32_t> stream_begin_;  // [n_layers + 1]
  std::vector<uint32_t> layer_of_stream_;
  std::vector<uint32_t> index_begin_;  // [n_layers + 1]
  uint64_t n_editions_ = 0;
  tiers::BlockStore store_;
  std::vector<tiers::BlockId> extent_blocks_;  // of the extent being frozen
  ThreadPool serial_{1};                       // checks what is held one extent at a time
};

}  // namespace strata::engine
