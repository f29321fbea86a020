// engine/sequence.h - one text in the KV cache: references to frozen, shared blocks plus its own
// open ones.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "index/selector.h"
#include "tiers/block_store.h"

namespace strata::engine {

class KvCache;

/// The tokens walked so far and, per stream, the table of their blocks. Move-only; fork() shares
/// every block. A sequence must not outlive the KvCache it came from.
class Sequence {
 public:
  Sequence(Sequence&& other) noexcept;
  Sequence& operator=(Sequence&& other) noexcept;
  ~Sequence();

  uint32_t n_pos() const { return static_cast<uint32_t>(tokens_.size()); }
  const std::vector<int32_t>& tokens() const { return tokens_; }

  /// A number that no other state of a sequence has whose blocks differ in anything but rows that
  /// were appended: who keeps copies of its tables knows by it whether they hold.
  uint64_t edition() const { return edition_; }

  /// Rows from first_pos on were computed by a selected step: their K and V are not those of exact
  /// attention.
  void mark_selected(uint32_t first_pos);
  /// Rows of [first_pos, end_pos) that selected steps have computed; from now on they count as
  /// exact.
  uint32_t take_selected(uint32_t first_pos, uint32_t end_pos);

  /// The chain hash of the text before position pos, a multiple of 32: before position 0 that of
  /// the sequence's root.
  const tiers::Hash128& chain_at(uint32_t pos) const {
    return pos == 0 ? root_ : chain_[pos / kBlockPositions - 1];
  }

  /// The index of its full layers' blocks; null where nothing selects. Blocks below n_indexed()
  /// have been observed.
  index::Selector* index() const { return index_.get(); }
  uint32_t n_indexed() const { return n_indexed_; }
  void set_n_indexed(uint32_t n_blocks) { n_indexed_ = n_blocks; }
  /// Positions before it hold the K and V of exact attention throughout; those behind were computed
  /// by a selected step, or after one.
  uint32_t n_exact() const { return n_exact_; }
  void set_n_exact(uint32_t n) { n_exact_ = n; }
  /// Gives the sequence an index that has observed nothing; the next selected step takes in every
  /// full block there is. Errors: kDoesNotFit (the index has no room), and nothing has changed.
  void attach_index(std::unique_ptr<index::Selector> index);
  void drop_index();

  /// A second sequence with the same past. Costs one reference per block; the open block is copied
  /// when either side appends. Without an index it needs no room for rows. Errors: kDoesNotFit, of
  /// an index that lacks blocks.
  Sequence fork(bool has_index = true) const;

  /// Forgets positions >= n. Windowed layers have let go of old blocks, so a sequence cut far back
  /// may have to be cut further: returns the number of positions kept (n, or 0 where the window
  /// before n is gone). The caller re-feeds the rest.
  uint32_t truncate(uint32_t n);
  /// What truncate(n) would keep.
  uint32_t kept_by_truncate(uint32_t n) const;

 private:
  friend class KvCache;
  Sequence(KvCache* cache, const tiers::Hash128& root);
  /// Blocks of one stream, oldest first; entry i holds positions [(first_block + i) * 32, ...).
  struct StreamTable {
    uint32_t first_block = 0;
    std::vector<tiers::BlockId> blocks;
    uint32_t end_block() const { return first_block + static_cast<uint32_t>(blocks.size()); }
  };
  void release_all();
  KvCache* cache_;
  tiers::Hash128 root_;
  uint64_t edition_ = 0;
  std::vector<int32_t> tokens_;
  std::vector<tiers::Hash128> chain_;  // of the text up to and through each full block
  std::vector<bool> is_selected_;      // rows up to the last one of a selected step
  std::vector<StreamTable> streams_;   // layer-major, KV head minor
  std::unique_ptr<index::Selector> index_;
  uint32_t n_indexed_ = 0;
  uint32_t n_exact_ = 0;
  uint32_t next_extent_ = 0;  // whole extents before it have been frozen, or refused
};

}  // namespace strata::engine
