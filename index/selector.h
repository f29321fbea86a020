// index/selector.h - which blocks of a stream a token needs: what every method of retrieval gives.
// Why: attention over a long context puts nearly all of its weight on a few blocks. A method keeps
// a small summary of every block in DRAM and estimates from it, per query, how much weight each
// block would get; what follows from the estimates (pooling over the group, budget, residency) is
// the same for all methods and stands in index/choose.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/kv_layout.h"

namespace strata::index {

class TileTable;

/// One KV head of one layer that selects; numbered from 0 by the caller, layer by layer.
using StreamIdx = uint32_t;

/// What the queries of one KV head ask of blocks [first_block, end_block) of a stream.
struct EstimateArgs {
  StreamIdx stream = 0;
  const float* q = nullptr;  // [n_queries, head_dim], RoPE applied, times the attention scale
  uint32_t n_queries = 0;
  uint32_t first_block = 0;  // both multiples of kExtentBlocks, but for an end_block == n_blocks()
  uint32_t end_block = 0;
  float* scratch = nullptr;      // scratch_floats(n_queries) floats, 64-byte aligned
  float* log_weights = nullptr;  // [n_queries, weight_stride]; entries [first_block, end_block) set
  // Floats between the rows of two queries: end_block rounded up to kExtentBlocks at least, since
  // whole extents are written.
  uint64_t weight_stride = 0;
};

/// What is asked about blocks [first_block, end_block) of a stream whose estimated weights are in
/// log_weights, -infinity for those that are left out.
struct TailArgs {
  StreamIdx stream = 0;
  const float* log_weights = nullptr;  // [n_queries, weight_stride], from block 0 on
  uint64_t weight_stride = 0;
  uint32_t n_queries = 0;
  uint32_t first_block = 0;  // a multiple of kExtentBlocks
  uint32_t end_block = 0;
  float* scratch = nullptr;  // kTailScratchFloats, 64-byte aligned
  float* o = nullptr;        // [n_queries, head_dim]
  float* m = nullptr;        // [n_queries]
  float* l = nullptr;        // [n_queries]
};

/// The index of one sequence. Blocks are those of the sequence, 32 positions each, numbered from 0;
/// each is observed once, when it is full. Nothing is trained from queries.
///
/// Threads: open_blocks, truncate and fork by one caller at a time and with nothing else at work;
/// observe and estimate by any number of threads, of one stream observe by one thread at a time.
class Selector {
 public:
  virtual ~Selector() = default;

  /// Makes room for blocks [n_blocks(), end_block) of every stream, each of which is then observed.
  /// Errors: kDoesNotFit where the memory for index rows is used up; then nothing has changed.
  virtual void open_blocks(uint32_t end_block) = 0;
  /// `block` is full, in the layout that the selector was made for, and is read here only. Costs
  /// one pass over its keys.
  virtual void observe(StreamIdx stream, uint32_t block_idx, const std::byte* block) = 0;
  /// Blocks that were opened: what estimate() may be asked about once all of them are observed.
  virtual uint32_t n_blocks() const = 0;

  virtual uint64_t scratch_floats(uint32_t n_queries) const = 0;
  /// For each query and block an estimate of ln(sum over its 32 positions of exp(q . k)), up to a
  /// constant per query. Never NaN: a block with keys that are not finite gets +infinity, so that
  /// it is always chosen and exact attention shows what it holds. No allocation, no lock.
  virtual void estimate(const EstimateArgs& args) const = 0;
  /// Where estimates are what RotatedScanArgs says of tiles of codes and of queries that are
  /// rotated by RabitqQueryArgs, so that whoever can scan those may estimate in place of this: the
  /// tiles. Null where they are not, or where more is done by them.
  virtual const TileTable* rotated_codes() const { return nullptr; }
  /// Whether estimates are of true weights, without a constant, and mean values are kept of blocks.
  virtual bool has_tail() const { return false; }
  /// What attention to the blocks would have given: one partial per query, of their estimated
  /// weights and mean values. A block with values that are not finite is left out. No allocation,
  /// no lock. Only where has_tail().
  virtual void estimate_tail(const TailArgs& args) const;
  /// Bytes of index rows for n_blocks blocks of one stream, with what they refer to besides.
  virtual uint64_t held_bytes(uint64_t n_blocks) const = 0;
  /// Those of them that both estimates read for queries as EstimateArgs has them.
  virtual uint64_t estimate_bytes(uint64_t n_blocks, const float* /*q*/,
                                  uint32_t /*n_queries*/) const {
    return held_bytes(n_blocks);
  }

  /// Forgets blocks >= n_blocks.
  virtual void truncate(uint32_t n_blocks) = 0;
  /// A second index with the same past, which shares its rows until either side appends.
  virtual std::unique_ptr<Selector> fork() const = 0;

  /// The rows of one extent (8 blocks) of one stream as bytes; those of observing the blocks again.
  /// Empty where the method still waits for keys to train with.
  virtual uint64_t extent_row_bytes() const = 0;
  virtual std::span<const std::byte> rows(StreamIdx stream, uint32_t extent) const = 0;
  /// What the rows of a stream refer to besides, one for each segment, numbered from 0.
  virtual uint64_t codebook_bytes() const { return 0; }
  virtual uint32_t n_codebooks(StreamIdx) const { return 0; }
  virtual std::span<const std::byte> codebook(StreamIdx, uint32_t /*idx*/) const { return {}; }

  // For a file. The extents of a segment depend on each other and on what came before, on nothing
  // behind it: a file keeps segments whole.
  virtual uint32_t segment_extents() const { return 1; }
  /// Of one stream: its codebook, then the rows of each extent. 0 = the method keeps nothing.
  uint64_t segment_bytes() const {
    return codebook_bytes() + segment_extents() * extent_row_bytes();
  }
  /// Segments from the first on whose bytes are those of an index that was built anew of the blocks
  /// observed. At least all their blocks must have been observed.
  virtual uint32_t n_segments(StreamIdx) const {
    return n_blocks() / kExtentBlocks / segment_extents();
  }
  /// segment < n_segments(stream); segment_bytes() bytes.
  void copy_segment(StreamIdx stream, uint32_t segment, std::span<std::byte> out) const;
  /// Takes what copy_segment() gave of a selector of the same method, shape and version, instead of
  /// observing the blocks: of a stream the opened segments in order, before any observe(). Any
  /// number of threads, of one stream one. Errors: kBadFile, and nothing has changed.
  virtual void load_segment(StreamIdx stream, uint32_t segment,
                            std::span<const std::byte> bytes) = 0;
  /// Whether it takes the segments of a stream in any order and by any number of threads, each of
  /// them once.
  virtual bool loads_in_any_order() const { return false; }
};

}  // namespace strata::index
