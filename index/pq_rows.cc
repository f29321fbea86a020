// PqSelector's rows and codebooks as bytes, for a file and from one. Nothing that is read is
// trusted: a code or a codebook's number is an index into memory.
#include <fmt/format.h>

#include <cstring>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "index/pq_selector.h"

namespace strata::index {
namespace {

[[noreturn]] void refuse(const std::string& what, StreamIdx stream, uint32_t segment) {
  throw Error(ErrorCode::kBadFile, what,
              fmt::format("index rows of stream {}, segment {}", stream, segment),
              "build the index anew");
}

PqTrailer trailer_in(std::span<const std::byte> tile) {
  PqTrailer trailer;
  std::memcpy(&trailer, tile.data() + kPqTileBytes, sizeof(trailer));
  return trailer;
}

void check_tile(std::span<const std::byte> tile, StreamIdx stream, uint32_t segment) {
  const PqTrailer trailer = trailer_in(tile);
  if (trailer.infinite >> kExtentBlocks != 0)
    refuse(fmt::format("flags {:#x}", trailer.infinite), stream, segment);
  if (trailer.zeros != std::array<uint32_t, 15>{}) refuse("padding is not zero", stream, segment);
  static_assert((kPqCentroids & (kPqCentroids - 1)) == 0,
                "bits of all codes stand for the largest");
  std::byte bits{0};
  for (const std::byte code : tile.first(kPqTileBytes)) bits |= code;
  if (std::to_integer<uint32_t>(bits) >= kPqCentroids)
    refuse(fmt::format("codes beyond {}", kPqCentroids - 1), stream, segment);
}

}  // namespace

std::span<const std::byte> PqSelector::rows(StreamIdx stream, uint32_t extent) const {
  if ((extent + 1) * kExtentBlocks > at(stream).n_coded()) return {};
  return TiledSelector::rows(stream, extent);
}

uint32_t PqSelector::n_codebooks(StreamIdx stream) const {
  return static_cast<uint32_t>(at(stream).codebooks.size());
}

std::span<const std::byte> PqSelector::codebook(StreamIdx stream, uint32_t idx) const {
  STRATA_CHECK(idx < n_codebooks(stream), "codebook %u of %u", idx, n_codebooks(stream));
  return streams_[stream].codebooks[idx]->bytes();
}

void PqSelector::load_segment(StreamIdx stream, uint32_t segment,
                              std::span<const std::byte> bytes) {
  STRATA_CHECK(segment * kSegmentBlocks == at(stream).n_observed && at(stream).n_kept == 0 &&
                   (segment + 1) * kSegmentBlocks <= n_blocks() && bytes.size() == segment_bytes(),
               "segment %u after %u blocks of %u, %zu bytes", segment, at(stream).n_observed,
               n_blocks(), bytes.size());
  const auto tile = [&](uint32_t i) {
    return bytes.subspan(codebook_bytes() + i * tile_bytes(), tile_bytes());
  };
  for (uint32_t i = 0; i < kSegmentExtents; ++i) check_tile(tile(i), stream, segment);
  auto book = std::make_shared<const PqCodebook>(
      PqCodebook::from_bytes(bytes.first(codebook_bytes()), layout_.head_dim));
  Stream& s = streams_[stream];
  s.codebooks.push_back(std::move(book));
  ++s.n_of_text;
  for (uint32_t i = 0; i < kSegmentExtents; ++i) {
    TiledSelector::load_segment(stream, segment * kSegmentExtents + i, tile(i));
    for (uint32_t block = 0; block < kExtentBlocks; ++block)
      if ((trailer_in(tile(i)).infinite >> block & 1u) != 0)
        s.infinite.push_back(s.n_observed + block);
    s.n_observed += kExtentBlocks;
  }
}

}  // namespace strata::index
