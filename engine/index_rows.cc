#include "engine/index_rows.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"

namespace strata::engine {
std::optional<tiers::RowsShape> rows_shape(const KvCache& cache, const Sequence& sequence) {
  if (sequence.index() == nullptr || cache.selectors() == nullptr) return std::nullopt;
  tiers::RowsShape shape;
  shape.kind = index::rows_kind(cache.selectors()->method());
  if (shape.kind.empty() || cache.n_index_streams() == 0) return std::nullopt;
  shape.n_streams = cache.n_index_streams();
  shape.segment_positions = sequence.index()->segment_extents() * kExtentPositions;
  shape.stream_bytes = sequence.index()->segment_bytes();
  return shape;
}

LoadedRows load_rows(const tiers::PackDirectory& directory, const tiers::FoundContext& found,
                     const tiers::RowsShape& shape, Sequence& sequence) {
  LoadedRows loaded;
  index::Selector& index = *sequence.index();
  STRATA_CHECK(sequence.n_indexed() == 0 && sequence.n_pos() == found.n_positions,
               "%u blocks are indexed, %u positions of %u", sequence.n_indexed(), sequence.n_pos(),
               found.n_positions);
  std::vector<std::byte> bytes(static_cast<size_t>(shape.segment_bytes()));
  uint32_t end_pos = 0;
  uint32_t segment = 0;
  for (const tiers::FoundPiece& piece : found.pieces) {
    end_pos += piece.n_positions;
    if ((segment + 1) * shape.segment_positions > end_pos) continue;
    try {
      const auto rows = directory.open_rows(*piece.pack, shape);
      for (; (segment + 1) * shape.segment_positions <= end_pos; ++segment) {
        if (!rows || !rows->head().has(segment)) return loaded;
        rows->read_segment(segment, bytes);
        for (index::StreamIdx stream = 0; stream < shape.n_streams; ++stream)
          index.load_segment(
              stream, segment,
              std::span(bytes).subspan(stream * shape.stream_bytes, shape.stream_bytes));
        loaded.n_positions = (segment + 1) * shape.segment_positions;
        loaded.bytes += bytes.size();
        sequence.set_n_indexed(loaded.n_positions / kBlockPositions);
      }
    } catch (const Error& error) {
      // What some streams have taken of the segment goes again.
      index.truncate(sequence.n_indexed());
      index.open_blocks(sequence.n_pos() / kBlockPositions);
      loaded.refused = {tiers::rows_file_name(piece.pack->name(), shape.kind), error.what(),
                        error.code() != ErrorCode::kUnsupported};
      return loaded;
    }
  }
  return loaded;
}

uint32_t n_segments_to_save(const Sequence& sequence, const tiers::RowsShape& shape) {
  const uint32_t n_positions = std::min(sequence.n_exact(), sequence.n_indexed() * kBlockPositions);
  uint32_t n = n_positions / shape.segment_positions;
  for (index::StreamIdx stream = 0; stream < shape.n_streams; ++stream)
    n = std::min(n, sequence.index()->n_segments(stream));
  return n;
}

std::vector<LackingRows> lacking_rows(const tiers::PackDirectory& directory,
                                      const tiers::FoundContext& found,
                                      const tiers::RowsShape& shape, uint32_t n_segments) {
  std::vector<LackingRows> lacking;
  uint32_t end_pos = 0;
  for (const tiers::FoundPiece& piece : found.pieces) {
    end_pos += piece.n_positions;
    tiers::SegmentRange range = tiers::segments_ending_in(piece.pack->head().run.first_pos, end_pos,
                                                          shape.segment_positions);
    range.end = std::max(range.first, std::min(range.end, n_segments));
    uint32_t n_saved = 0;
    try {
      if (const auto rows = directory.open_rows(*piece.pack, shape))
        n_saved = rows->head().n_segments();
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kIo) throw;
    }
    if (n_saved < range.n()) lacking.push_back({piece.pack->name(), range});
  }
  return lacking;
}

void write_rows(const index::Selector& index, const tiers::RowsShape& shape,
                tiers::SegmentRange segments, tiers::RowsWriter& writer) {
  std::vector<std::byte> bytes(static_cast<size_t>(shape.segment_bytes()));
  for (uint32_t segment = segments.first; segment < segments.end; ++segment) {
    for (index::StreamIdx stream = 0; stream < shape.n_streams; ++stream)
      index.copy_segment(stream, segment,
                         std::span(bytes).subspan(stream * shape.stream_bytes, shape.stream_bytes));
    writer.write(bytes);
  }
}

}  // namespace strata::engine
