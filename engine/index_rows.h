// engine/index_rows.h - index rows of saved contexts: between the index of a sequence and the files
// beside packs (docs/adr/0010-saved-index-rows.md).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/disk_patience.h"
#include "engine/kv_cache.h"
#include "engine/sequence.h"
#include "tiers/pack_directory.h"

namespace strata::engine {

/// The shape of what the index of `sequence` keeps in files; nothing where it has none, or one
/// whose method keeps nothing there.
std::optional<tiers::RowsShape> rows_shape(const KvCache& cache, const Sequence& sequence);

/// What RowsLoading holds of the file at a time: about 16 MiB in flight, at least two segments.
uint64_t rows_memory_bytes(uint64_t segment_bytes);

struct LoadedRows {
  uint32_t n_positions = 0;  // whose rows the index has now
  uint64_t bytes = 0;        // that were read
  // At which the loading ended; damaged also where it cannot be read: then it is made anew.
  std::optional<tiers::RefusedFile> refused;
};

/// Takes the rows of the text's first segments into the index of a sequence that is being restored,
/// as far as they are there and whole. Several threads read, a segment each at a time: reading from
/// disk is what takes the time. Holds rows_memory_bytes() and few files open.
class RowsLoading {
 public:
  /// Begins. `sequence` is KvCache::make_for() of `found`; its index is these threads' until wait()
  /// or the end of this, and outlives it.
  RowsLoading(std::shared_ptr<const tiers::DurableDirectory> directory,
              const tiers::FoundContext& found, const tiers::RowsShape& shape, Sequence& sequence);
  /// Without wait(), threads that wait for the disk go on alone, with memory of their own.
  ~RowsLoading();
  /// Nothing more is loaded, and what readers hold is given back before another takes as much.
  /// Errors: those of DiskWatch::look().
  void end(const DiskPatience& patience);
  RowsLoading(const RowsLoading&) = delete;
  RowsLoading& operator=(const RowsLoading&) = delete;

  /// Until everything is read; then the sequence has its positions, and n_indexed() is set. The
  /// other blocks are observed by the first selected step. Errors: kIo where the disk does not
  /// answer, kCancelled (DiskWatch::look); then the rows are to be dropped with the sequence.
  LoadedRows wait(Sequence& sequence, const DiskPatience& patience = {});

 private:
  class Loader;
  std::shared_ptr<Loader> loader_;
};

/// Segments of the index that a file may keep: of the n_saved positions that packs hold, as an
/// index built anew has them.
uint32_t n_segments_to_save(const Sequence& sequence, const tiers::RowsShape& shape,
                            uint32_t n_saved);

/// Rows that a file should hold and does not.
struct LackingRows {
  std::string pack;
  tiers::SegmentRange segments;
};
/// Of the packs of a text whose index has its first n_segments segments. Errors: kIo.
std::vector<LackingRows> lacking_rows(const tiers::PackDirectory& directory,
                                      const tiers::FoundContext& found,
                                      const tiers::RowsShape& shape, uint32_t n_segments);

/// Errors: kIo.
void write_rows(const index::Selector& index, const tiers::RowsShape& shape,
                tiers::SegmentRange segments, tiers::RowsWriter& writer);

}  // namespace strata::engine
