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

uint32_t n_segments_to_save(const Sequence& sequence, const tiers::RowsShape& shape,
                            uint32_t n_saved) {
  const uint32_t n_positions = std::min(n_saved, sequence.n_indexed() * kBlockPositions);
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
