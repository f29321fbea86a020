#include "index/pq_selector.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "base/checked_math.h"

namespace strata::index {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr uint32_t kMaxHeadDim = 1024;
constexpr uint32_t kSampleBlocks = PqSelector::kSampleExtents * kExtentBlocks;

bool all_finite(std::span<const float> keys) {
  return std::ranges::all_of(keys, [](float x) { return std::isfinite(x); });
}

/// The largest q . k over the keys [head_dim][32] of a block.
float largest_score(const float* q, const float* keys, uint32_t head_dim) {
  std::array<float, kBlockPositions> scores{};
  for (uint32_t d = 0; d < head_dim; ++d)
    for (uint32_t i = 0; i < kBlockPositions; ++i)
      scores[i] += q[d] * keys[d * kBlockPositions + i];
  return all_finite(scores) ? std::ranges::max(scores) : kInfinity;
}

/// Where a block's columns begin in the codes of a tile.
uint32_t codes_offset(uint32_t block_idx) {
  const uint32_t key = block_idx % kExtentBlocks * kBlockPositions;
  return key / kPqTileKeys * kPqSubspaces * kPqTileKeys + key % kPqTileKeys;
}

}  // namespace

PqSelector::PqSelector(const KvLayout& layout, const KernelTable& kernels,
                       std::shared_ptr<TileMemory> memory, uint32_t n_streams)
    : TiledSelector(layout, kernels, std::move(memory), tile_bytes(), n_streams),
      streams_(n_streams) {
  STRATA_CHECK(layout.head_dim % kPqSubspaces == 0 && layout.head_dim <= kMaxHeadDim, "head_dim=%u",
               layout.head_dim);
}

uint64_t PqSelector::stream_bytes(const KvLayout& layout, uint32_t n_blocks) {
  const uint64_t n_extents = n_blocks / kExtentBlocks;
  // A second codebook needs kDriftExtents of codes before its own sample, and so on.
  const uint64_t n_codebooks =
      n_extents < kSampleExtents
          ? 0
          : std::min<uint64_t>(kMaxCodebooks, 1 + (n_extents - kSampleExtents) / kDriftExtents);
  return n_codebooks * PqCodebook::memory_bytes(layout.head_dim) +
         uint64_t{std::min(n_blocks, kSampleBlocks)} * layout.v_offset;
}

const PqSelector::Stream& PqSelector::at(StreamIdx stream) const {
  STRATA_CHECK(stream < streams_.size(), "stream %u of %zu", stream, streams_.size());
  return streams_[stream];
}

PqTrailer& PqSelector::trailer(StreamIdx stream, uint32_t extent) {
  return *reinterpret_cast<PqTrailer*>(table_.tile(stream, extent) + kPqTileBytes);
}

const PqTrailer& PqSelector::trailer(StreamIdx stream, uint32_t extent) const {
  return *reinterpret_cast<const PqTrailer*>(table_.tiles(stream)[extent] + kPqTileBytes);
}

/// Whether the last kDriftExtents extents before `extent`, all with codes of the last codebook,
/// have a larger error than it was trained to.
bool PqSelector::has_drifted(StreamIdx stream, uint32_t extent) const {
  double sum = 0;
  uint32_t n = 0;
  for (uint32_t e = extent - kDriftExtents; e < extent; ++e) {
    const PqTrailer& last = trailer(stream, e);
    n += kExtentBlocks - static_cast<uint32_t>(std::popcount(last.infinite));
    for (const float error : last.errors) sum += error;
  }
  return sum > kDriftFactor * streams_[stream].codebooks.back().book->training_error() * n;
}

/// Whether the keys of a new extent are sampled instead of encoded. Never across two slots: a fork
/// may share the first, and codes are written into all extents of a sample.
bool PqSelector::begins_sample(StreamIdx stream, uint32_t extent) const {
  const Stream& s = streams_[stream];
  if (s.codebooks.empty()) return true;
  return s.codebooks.size() < kMaxCodebooks &&
         extent % TileMemory::kSlotTiles + kSampleExtents <= TileMemory::kSlotTiles &&
         extent - s.codebooks.back().first_extent >= kDriftExtents && has_drifted(stream, extent);
}

void PqSelector::keep_raw(StreamIdx stream, const std::byte* block) {
  const uint32_t n_lines = layout_.v_offset / sizeof(Line);
  std::shared_ptr<Line[]> raw(new Line[n_lines]);
  std::memcpy(raw.get(), block, n_lines * sizeof(Line));
  streams_[stream].sample.push_back(std::move(raw));
}

void PqSelector::observe(StreamIdx stream, uint32_t block_idx, const std::byte* block) {
  if (block_idx < at(stream).n_observed) return;  // by a step that was cancelled and runs again
  STRATA_CHECK(block_idx == at(stream).n_observed, "block %u after %u", block_idx,
               at(stream).n_observed);
  Stream& s = streams_[stream];
  std::byte* tile = open_tile(stream, block_idx);
  const uint32_t extent = block_idx / kExtentBlocks;
  if (block_idx % kExtentBlocks == 0) {
    // Codebooks that were loaded beyond the rows that were.
    while (!s.codebooks.empty() && s.codebooks.back().first_extent == kUnused)
      s.codebooks.pop_back();
    const bool is_sampled = !s.sample.empty() || begins_sample(stream, extent);
    std::memset(tile, 0, tile_bytes());
    trailer(stream, extent).codebook =
        is_sampled ? kNoCodebook : static_cast<uint32_t>(s.codebooks.size() - 1);
  }
  PqTrailer& last = trailer(stream, extent);
  alignas(64) std::array<float, size_t{kMaxHeadDim} * kBlockPositions> keys;
  kernels_->index.load_k(layout_, block, keys.data());
  const uint32_t bit = 1u << block_idx % kExtentBlocks;
  last.infinite &= ~bit;  // of a block that was truncated
  if (!all_finite(std::span(keys).first(size_t{layout_.head_dim} * kBlockPositions))) {
    last.infinite |= bit;
    s.infinite.push_back(block_idx);
  }
  ++s.n_observed;
  if (last.codebook != kNoCodebook) {
    encode(stream, block_idx, keys.data());
    return;
  }
  keep_raw(stream, block);
  if (s.sample.size() == kSampleBlocks) train(stream);
}

/// The block's codes under its extent's codebook, and their error.
void PqSelector::encode(StreamIdx stream, uint32_t block_idx, const float* keys) {
  const uint32_t extent = block_idx / kExtentBlocks;
  PqTrailer& last = trailer(stream, extent);
  auto* codes = reinterpret_cast<uint8_t*>(table_.tile(stream, extent)) + codes_offset(block_idx);
  float& error = last.errors[block_idx % kExtentBlocks];
  error = 0;
  if ((last.infinite >> block_idx % kExtentBlocks & 1u) != 0) {
    // No key has a nearest centroid; the block always weighs +infinity.
    for (uint32_t s = 0; s < kPqSubspaces; ++s)
      std::memset(codes + size_t{s} * kPqTileKeys, 0, kBlockPositions);
    return;
  }
  const PqCodebook& book = *streams_[stream].codebooks[last.codebook].book;
  book.encode(*kernels_, keys, codes);
  error = book.error(keys, codes);
}

void PqSelector::train(StreamIdx stream) {
  Stream& s = streams_[stream];
  const size_t block_floats = size_t{layout_.head_dim} * kBlockPositions;
  const uint32_t first_block = s.n_coded();
  // Finite blocks, one after the other.
  std::vector<float> keys(kSampleBlocks * block_floats);
  size_t n_floats = 0;
  for (const RawBlock& raw : s.sample) {
    const std::span block(keys.data() + n_floats, block_floats);
    kernels_->index.load_k(layout_, raw[0].bytes.data(), block.data());
    if (all_finite(block)) n_floats += block_floats;
  }
  auto book = std::make_shared<const PqCodebook>(
      PqCodebook::train(*kernels_, std::span(keys).first(n_floats), layout_.head_dim));
  s.codebooks.push_back({std::move(book), first_block / kExtentBlocks});
  s.sample.clear();
  s.sample.shrink_to_fit();
  const float* next = keys.data();
  for (uint32_t block = first_block; block < s.n_observed; ++block) {
    PqTrailer& last = trailer(stream, block / kExtentBlocks);
    last.codebook = static_cast<uint32_t>(s.codebooks.size() - 1);
    encode(stream, block, next);
    if ((last.infinite >> block % kExtentBlocks & 1u) == 0) next += block_floats;
  }
}

uint64_t PqSelector::scratch_floats(uint32_t n_queries) const {
  // A sampled block's keys; each query's table, scale and offset.
  constexpr uint64_t kTableFloats = uint64_t{kPqSubspaces} * kPqCentroids / sizeof(float);
  return uint64_t{layout_.head_dim} * kBlockPositions + n_queries * (kTableFloats + 2);
}

/// Blocks of [first_extent, end_extent), which are coded under `book`.
void PqSelector::scan(const EstimateArgs& args, const PqCodebook& book, uint32_t first_extent,
                      uint32_t end_extent) const {
  constexpr uint32_t kTableBytes = kPqSubspaces * kPqCentroids;
  auto* tables = reinterpret_cast<uint8_t*>(args.scratch);
  float* scales = args.scratch + uint64_t{args.n_queries} * kTableBytes / sizeof(float);
  float* offsets = scales + args.n_queries;
  for (uint32_t i = 0; i < args.n_queries; ++i) {
    const PqTable table = build_pq_table(book, args.q + uint64_t{i} * layout_.head_dim,
                                         tables + uint64_t{i} * kTableBytes);
    scales[i] = table.scale;
    offsets[i] = table.offset;
  }
  kernels_->index.pq_scan(
      {.tiles = table_.tiles(args.stream).data() + first_extent,
       .n_tiles = end_extent - first_extent,
       .tables = tables,
       .scales = scales,
       .offsets = offsets,
       .n_queries = args.n_queries,
       .block_scores = args.log_weights + uint64_t{first_extent} * kExtentBlocks,
       .score_stride = args.weight_stride});
}

/// Blocks [first_block, end_block), which are sampled.
void PqSelector::score_sample(const EstimateArgs& args, uint32_t first_block) const {
  const Stream& s = streams_[args.stream];
  for (uint32_t block = first_block; block < args.end_block; ++block) {
    const RawBlock& raw = s.sample[block - s.n_coded()];
    kernels_->index.load_k(layout_, raw[0].bytes.data(), args.scratch);
    for (uint32_t i = 0; i < args.n_queries; ++i)
      args.log_weights[i * args.weight_stride + block] =
          largest_score(args.q + uint64_t{i} * layout_.head_dim, args.scratch, layout_.head_dim);
  }
}

void PqSelector::estimate(const EstimateArgs& args) const {
  check_blocks(args);
  const Stream& s = at(args.stream);
  STRATA_CHECK(args.end_block <= s.n_observed, "block %u of %u", args.end_block, s.n_observed);
  const uint32_t coded_end = std::min(args.end_block, s.n_coded());
  const auto extents = static_cast<uint32_t>(div_up(coded_end, kExtentBlocks));
  uint32_t extent = args.first_block / kExtentBlocks;
  for (size_t i = 0; i < s.codebooks.size() && extent < extents; ++i) {
    const uint32_t end =
        i + 1 < s.codebooks.size() ? std::min(s.codebooks[i + 1].first_extent, extents) : extents;
    if (extent >= end) continue;
    scan(args, *s.codebooks[i].book, extent, end);
    extent = end;
  }
  if (args.end_block > s.n_coded()) score_sample(args, std::max(args.first_block, s.n_coded()));
  for (auto block = std::ranges::lower_bound(s.infinite, args.first_block);
       block != s.infinite.end() && *block < args.end_block; ++block)
    for (uint32_t i = 0; i < args.n_queries; ++i)
      args.log_weights[i * args.weight_stride + *block] = kInfinity;
}

void PqSelector::truncate(uint32_t n_blocks) {
  table_.truncate(n_blocks);
  for (Stream& s : streams_) {
    if (n_blocks >= s.n_observed) continue;
    s.sample.resize(n_blocks - std::min(n_blocks, s.n_coded()));
    s.n_observed = n_blocks;
    while (!s.infinite.empty() && s.infinite.back() >= n_blocks) s.infinite.pop_back();
    while (!s.codebooks.empty() &&
           uint64_t{s.codebooks.back().first_extent} * kExtentBlocks >= n_blocks)
      s.codebooks.pop_back();
  }
}

std::unique_ptr<Selector> PqSelector::fork() const {
  return std::unique_ptr<Selector>(new PqSelector(*this));
}

}  // namespace strata::index
