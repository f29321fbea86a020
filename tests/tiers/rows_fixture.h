// tests/tiers/rows_fixture.h - small index rows beside packs.
#pragma once

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "base/host_memory.h"
#include "tests/tiers/pack_fixture.h"
#include "tiers/rows_file.h"

namespace strata::tiers {

/// Of the packs of small_shape(), whose full layer has two streams: segments of 256 positions.
inline RowsShape small_rows() {
  return {.kind = "quest1", .n_streams = 2, .segment_positions = 256, .stream_bytes = 24};
}

/// The bytes of a segment are a function of the pack and its number.
inline std::vector<std::byte> segment_bytes(const RowsShape& shape, const std::string& pack,
                                            uint32_t segment) {
  std::mt19937_64 random(std::hash<std::string>()(pack) + segment);
  std::vector<std::byte> bytes(shape.segment_bytes());
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

/// Saves segments [first, first + n) of a pack's rows; false where the pack is gone.
inline bool save_rows(PackDirectory& packs, const std::string& pack, const RowsShape& shape,
                      uint32_t first, uint32_t n) {
  RowsWriter writer = packs.start_rows(pack, shape, first, n);
  for (uint32_t i = 0; i < n; ++i) writer.write(segment_bytes(shape, pack, first + i));
  writer.seal();
  return packs.publish_rows(std::move(writer));
}

/// Of every segment of every piece's rows: is it what save_rows() wrote? The number of segments.
inline uint32_t expect_whole_rows(const PackDirectory& packs, const FoundContext& found,
                                  const RowsShape& shape) {
  uint32_t n = 0;
  for (const FoundPiece& piece : found.pieces) {
    const auto rows = packs.open_rows(*piece.pack, shape);
    if (!rows) continue;
    const RowsHead& head = rows->head();
    for (uint32_t segment = head.first_segment; head.has(segment); ++segment, ++n) {
      const HostMemory memory = HostMemory::reserve(RowsReader::memory_bytes(shape));
      const auto bytes = rows->read_segment(segment, {memory.data(), memory.size()});
      EXPECT_TRUE(std::ranges::equal(bytes, segment_bytes(shape, piece.pack->name(), segment)))
          << segment;
    }
  }
  return n;
}

}  // namespace strata::tiers
