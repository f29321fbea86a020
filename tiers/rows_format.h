// tiers/rows_format.h - the bytes of a file of index rows: what an index keeps of the keys in a
// pack, so that a context that is opened again needs not be read whole to choose from it
// (docs/adr/0010-saved-index-rows.md).
//
//   segments  one after another: [n_streams] rows of one stream. A segment is as many positions as
//             must be taken together, and is in the file of the pack that its last position is in,
//             whole, even where it begins in the pack before.
//   hashes    16 bytes for each segment
//   trailer   96 bytes: magic, version, kind, whose rows, sizes, hash of hashes and trailer
//
// Derived data: a missing or wrong file costs the time of making it anew. The trailer is last, and
// no byte is outside a hash. Little-endian throughout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tiers/block_tag.h"
#include "tiers/pack_format.h"

namespace strata::tiers {

inline constexpr uint32_t kRowsVersion = 1;
inline constexpr uint64_t kRowsTrailerBytes = 96;
inline constexpr uint32_t kRowsKindMax = 16;  // characters
inline constexpr uint32_t kRowsSegmentsMax = kPackPositionsMax / kExtentPositions;
inline constexpr uint32_t kRowsStreamsMax = kPackLayersMax * kPackKvHeadsMax;
inline constexpr uint64_t kRowsStreamBytesMax = uint64_t{1} << 32;  // of a segment of a stream
inline constexpr uint64_t kRowsEndBytesMax = kRowsTrailerBytes + kRowsSegmentsMax * sizeof(Hash128);

/// What two indexes must have in common for one to take the other's rows.
struct RowsShape {
  std::string kind;  // the method and its version, "pq1": a letter, then letters and digits, small
  uint32_t n_streams = 0;
  uint32_t segment_positions = 0;  // a multiple of 256
  uint64_t stream_bytes = 0;       // of a segment of one stream
  bool operator==(const RowsShape&) const = default;
  uint64_t segment_bytes() const { return n_streams * stream_bytes; }
};

/// Segments are those of the text, from position 0 on.
struct RowsHead {
  RowsShape shape;
  uint32_t first_segment = 0;   // the first that ends behind the pack's first position
  std::vector<Hash128> hashes;  // of the segments that are there

  uint32_t n_segments() const { return static_cast<uint32_t>(hashes.size()); }
  bool has(uint32_t segment) const {
    return segment >= first_segment && segment - first_segment < n_segments();
  }
};

/// Segments [first, end) of the text that end in positions (first_pos, end_pos].
struct SegmentRange {
  uint32_t first = 0;
  uint32_t end = 0;
  uint32_t n() const { return end - first; }
};
SegmentRange segments_ending_in(uint32_t first_pos, uint32_t end_pos, uint32_t segment_positions);

/// The name of the file of a pack's rows: that of the pack, then ".kind.rows".
std::string rows_file_name(const std::string& pack, const std::string& kind);
/// The kind in such a name.
std::string kind_of_rows_file(std::string_view name);
/// The pack whose rows a file of this name holds; "" where it is no such name.
std::string pack_of_rows_file(std::string_view name);

uint64_t rows_file_bytes(const RowsShape& shape, uint32_t n_segments);
/// Hashes and trailer: what follows the segments.
std::vector<std::byte> encode_rows_end(const RowsHead& head, const std::string& pack);

/// From the last min(file_bytes, kRowsEndBytesMax) bytes of a file of rows of `pack`, which holds
/// positions [first_pos, end_pos). Trusts nothing: every size is checked against file_bytes before
/// anything of that size is made.   Errors: kBadFile, kUnsupported (another version).
RowsHead parse_rows_end(std::span<const std::byte> tail, uint64_t file_bytes,
                        const std::string& pack, uint32_t first_pos, uint32_t end_pos,
                        const std::string& name);

}  // namespace strata::tiers
