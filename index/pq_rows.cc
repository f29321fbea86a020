// PqSelector's rows and codebooks as bytes, for a file and from one. Nothing that is read is
// trusted: a code or a codebook's number is an index into memory.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "base/check.h"
#include "base/error.h"
#include "index/pq_selector.h"

namespace strata::index {
namespace {

[[noreturn]] void refuse(const std::string& what, StreamIdx stream, uint32_t extent) {
  throw Error(ErrorCode::kBadFile, what,
              fmt::format("index rows of stream {}, extent {}", stream, extent),
              "build the index anew");
}

}  // namespace

std::span<const std::byte> PqSelector::rows(StreamIdx stream, uint32_t extent) const {
  if ((extent + 1) * kExtentBlocks > at(stream).n_coded()) return {};
  return TiledSelector::rows(stream, extent);
}

void PqSelector::load_rows(StreamIdx stream, uint32_t extent, std::span<const std::byte> bytes) {
  STRATA_CHECK(uint64_t{extent} * kExtentBlocks == at(stream).n_observed &&
                   (extent + 1) * kExtentBlocks <= n_blocks() && at(stream).kept.empty(),
               "extent %u after %u blocks of %u", extent, at(stream).n_observed, n_blocks());
  Stream& s = streams_[stream];
  if (bytes.size() != tile_bytes())
    refuse(fmt::format("{} bytes, wanted {}", bytes.size(), tile_bytes()), stream, extent);
  PqTrailer found;
  std::memcpy(&found, bytes.data() + kPqTileBytes, sizeof(found));
  if (extent / kSegmentExtents >= s.codebooks.size())
    refuse(fmt::format("of codebook {} of {}", extent / kSegmentExtents, s.codebooks.size()),
           stream, extent);
  if (found.infinite >> kExtentBlocks != 0)
    refuse(fmt::format("flags {:#x}", found.infinite), stream, extent);
  if (found.zeros != std::array<uint32_t, 15>{}) refuse("padding is not zero", stream, extent);
  for (const std::byte code : bytes.first(kPqTileBytes))
    if (std::to_integer<uint32_t>(code) >= kPqCentroids)
      refuse(fmt::format("code {}", std::to_integer<uint32_t>(code)), stream, extent);

  TiledSelector::load_rows(stream, extent, bytes);
  for (uint32_t i = 0; i < kExtentBlocks; ++i)
    if ((found.infinite >> i & 1u) != 0) s.infinite.push_back(s.n_observed + i);
  s.n_observed += kExtentBlocks;
}

uint32_t PqSelector::n_codebooks(StreamIdx stream) const {
  return static_cast<uint32_t>(at(stream).codebooks.size());
}

std::span<const std::byte> PqSelector::codebook(StreamIdx stream, uint32_t idx) const {
  STRATA_CHECK(idx < n_codebooks(stream), "codebook %u of %u", idx, n_codebooks(stream));
  return streams_[stream].codebooks[idx]->bytes();
}

void PqSelector::load_codebook(StreamIdx stream, std::span<const std::byte> bytes) {
  STRATA_CHECK(at(stream).n_observed == 0, "codebook after %u blocks", at(stream).n_observed);
  if (n_codebooks(stream) == max_codebooks_)
    throw Error(ErrorCode::kBadFile, fmt::format("more than {} codebooks", max_codebooks_),
                fmt::format("index of stream {}", stream), "build the index anew");
  streams_[stream].codebooks.push_back(
      std::make_shared<const PqCodebook>(PqCodebook::from_bytes(bytes, layout_.head_dim)));
}

}  // namespace strata::index
