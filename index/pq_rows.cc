// PqSelector's rows and codebooks as bytes, for a file and from one. Nothing that is read is
// trusted: a code or a codebook's number is an index into memory.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
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
  if (trailer(stream, extent).codebook == kNoCodebook) return {};
  return TiledSelector::rows(stream, extent);
}

void PqSelector::load_rows(StreamIdx stream, uint32_t extent, std::span<const std::byte> bytes) {
  STRATA_CHECK(uint64_t{extent} * kExtentBlocks == at(stream).n_observed &&
                   (extent + 1) * kExtentBlocks <= n_blocks() && at(stream).sample.empty(),
               "extent %u after %u blocks of %u", extent, at(stream).n_observed, n_blocks());
  Stream& s = streams_[stream];
  if (bytes.size() != tile_bytes())
    refuse(fmt::format("{} bytes, wanted {}", bytes.size(), tile_bytes()), stream, extent);
  PqTrailer found;
  std::memcpy(&found, bytes.data() + kPqTileBytes, sizeof(found));
  // Extents in order have the same codebook as the one before, or the next.
  const auto used = std::ranges::find(s.codebooks, kUnused, &Codebook::first_extent);
  const auto n_used = static_cast<uint32_t>(used - s.codebooks.begin());
  if (found.codebook >= s.codebooks.size() || found.codebook > n_used ||
      found.codebook + 1 < n_used)
    refuse(fmt::format("codebook {} of {}, after {}", found.codebook, s.codebooks.size(), n_used),
           stream, extent);
  if (found.infinite >> kExtentBlocks != 0)
    refuse(fmt::format("flags {:#x}", found.infinite), stream, extent);
  for (const float error : found.errors)
    if (!(error >= 0 && std::isfinite(error)))
      refuse(fmt::format("a quantisation error of {}", error), stream, extent);
  if (found.zeros != std::array<uint32_t, 6>{}) refuse("padding is not zero", stream, extent);
  for (const std::byte code : bytes.first(kPqTileBytes))
    if (std::to_integer<uint32_t>(code) >= kPqCentroids)
      refuse(fmt::format("code {}", std::to_integer<uint32_t>(code)), stream, extent);

  TiledSelector::load_rows(stream, extent, bytes);
  if (found.codebook == n_used) used->first_extent = extent;
  for (uint32_t i = 0; i < kExtentBlocks; ++i)
    if ((found.infinite >> i & 1u) != 0) s.infinite.push_back(s.n_observed + i);
  s.n_observed += kExtentBlocks;
}

uint32_t PqSelector::n_codebooks(StreamIdx stream) const {
  return static_cast<uint32_t>(at(stream).codebooks.size());
}

std::span<const std::byte> PqSelector::codebook(StreamIdx stream, uint32_t idx) const {
  STRATA_CHECK(idx < n_codebooks(stream), "codebook %u of %u", idx, n_codebooks(stream));
  return streams_[stream].codebooks[idx].book->bytes();
}

void PqSelector::load_codebook(StreamIdx stream, std::span<const std::byte> bytes) {
  STRATA_CHECK(at(stream).n_observed == 0, "codebook after %u blocks", at(stream).n_observed);
  if (n_codebooks(stream) == kMaxCodebooks)
    throw Error(ErrorCode::kBadFile, fmt::format("more than {} codebooks", kMaxCodebooks),
                fmt::format("index of stream {}", stream), "build the index anew");
  streams_[stream].codebooks.push_back(
      {std::make_shared<const PqCodebook>(PqCodebook::from_bytes(bytes, layout_.head_dim)),
       kUnused});
}

}  // namespace strata::index
