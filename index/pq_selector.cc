#include "index/pq_selector.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/checked_math.h"

namespace strata::index {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr uint32_t kSegmentBlocks = PqSelector::kSegmentBlocks;
// A fork shares whole slots, and codes are written into a whole segment when it is complete.
static_assert(TileMemory::kSlotTiles % PqSelector::kSegmentExtents == 0);

bool all_finite(std::span<const float> keys) {
  return std::ranges::all_of(keys, [](float x) { return std::isfinite(x); });
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
  const uint64_t n_codebooks = n_blocks / kSegmentBlocks;
  return n_codebooks * PqCodebook::memory_bytes(layout.head_dim) +
         (n_blocks > 0 ? uint64_t{kSegmentBlocks} * layout.v_offset : 0);
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

void PqSelector::keep_raw(StreamIdx stream, const std::byte* block) {
  Stream& s = streams_[stream];
  if (s.kept == nullptr || s.kept.use_count() > 1) {
    std::shared_ptr<Line[]> own(new Line[size_t{kSegmentBlocks} * block_lines()]);
    if (s.n_kept > 0) std::memcpy(own.get(), s.kept.get(), uint64_t{s.n_kept} * layout_.v_offset);
    s.kept = std::move(own);
  }
  std::memcpy(&s.kept[size_t{s.n_kept} * block_lines()], block, layout_.v_offset);
  ++s.n_kept;
}

void PqSelector::observe(StreamIdx stream, uint32_t block_idx, const std::byte* block) {
  if (block_idx < at(stream).n_observed) return;  // by a step that was cancelled and runs again
  STRATA_CHECK(block_idx == at(stream).n_observed, "block %u after %u", block_idx,
               at(stream).n_observed);
  Stream& s = streams_[stream];
  std::byte* tile = open_tile(stream, block_idx);
  if (block_idx % kExtentBlocks == 0) std::memset(tile, 0, tile_bytes());
  PqTrailer& last = trailer(stream, block_idx / kExtentBlocks);
  alignas(64) std::array<float, size_t{kMaxHeadDim} * kBlockPositions> keys;
  kernels_->index.load_k(layout_, block, keys.data());
  const uint32_t bit = 1u << block_idx % kExtentBlocks;
  last.infinite &= ~bit;  // of a block that was truncated
  if (!all_finite(std::span(keys).first(size_t{layout_.head_dim} * kBlockPositions))) {
    last.infinite |= bit;
    s.infinite.push_back(block_idx);
  }
  ++s.n_observed;
  if (block_idx / kSegmentBlocks < s.codebooks.size()) {
    encode(stream, block_idx, keys.data());
    return;
  }
  keep_raw(stream, block);
  if (s.n_kept == kSegmentBlocks) train(stream);
}

/// The block's codes under its segment's codebook.
void PqSelector::encode(StreamIdx stream, uint32_t block_idx, const float* keys) {
  const uint32_t extent = block_idx / kExtentBlocks;
  auto* codes = reinterpret_cast<uint8_t*>(table_.tile(stream, extent)) + codes_offset(block_idx);
  if ((trailer(stream, extent).infinite >> block_idx % kExtentBlocks & 1u) != 0) {
    // No key has a nearest centroid; the block always weighs +infinity.
    for (uint32_t s = 0; s < kPqSubspaces; ++s)
      std::memset(codes + size_t{s} * kPqTileKeys, 0, kBlockPositions);
    return;
  }
  streams_[stream].codebooks[block_idx / kSegmentBlocks]->encode(*kernels_, keys, codes);
}

void PqSelector::train(StreamIdx stream) {
  Stream& s = streams_[stream];
  const size_t block_floats = size_t{layout_.head_dim} * kBlockPositions;
  const uint32_t first_block = s.n_coded();
  // Finite blocks, one after the other.
  std::vector<float> keys(kSegmentBlocks * block_floats);
  size_t n_floats = 0;
  for (uint32_t i = 0; i < s.n_kept; ++i) {
    const std::span block(keys.data() + n_floats, block_floats);
    kernels_->index.load_k(layout_, kept_block(s, i), block.data());
    if (all_finite(block)) n_floats += block_floats;
  }
  const PqCodebook* before = s.codebooks.empty() ? nullptr : s.codebooks.back().get();
  if (s.n_of_text == s.codebooks.size()) ++s.n_of_text;
  s.codebooks.push_back(std::make_shared<const PqCodebook>(
      PqCodebook::train(*kernels_, std::span(keys).first(n_floats), layout_.head_dim, before)));
  s.n_kept = 0;
  const float* next = keys.data();
  for (uint32_t block = first_block; block < s.n_observed; ++block) {
    encode(stream, block, next);
    if ((trailer(stream, block / kExtentBlocks).infinite >> block % kExtentBlocks & 1u) == 0)
      next += block_floats;
  }
}

uint64_t PqSelector::held_bytes(uint64_t n_blocks) const {
  const uint64_t n_codebooks = n_blocks / kSegmentBlocks;
  return n_codebooks * (kSegmentExtents * table_.tile_bytes() +
                        uint64_t{kPqCentroids} * layout_.head_dim * sizeof(float)) +
         n_blocks % kSegmentBlocks * layout_.v_offset;
}

uint64_t PqSelector::scratch_floats(uint32_t n_queries) const {
  // A kept block's keys; each query's table, scale and offset.
  constexpr uint64_t kTableFloats = uint64_t{kPqSubspaces} * kPqCentroids / sizeof(float);
  return uint64_t{layout_.head_dim} * kBlockPositions + n_queries * (kTableFloats + 2);
}

/// Blocks of [first_extent, end_extent), which are coded under `book`; `next` is read after it.
void PqSelector::scan(const EstimateArgs& args, const PqCodebook& book, const PqCodebook* next,
                      uint32_t first_extent, uint32_t end_extent) const {
  constexpr uint32_t kTableBytes = kPqSubspaces * kPqCentroids;
  auto* tables = reinterpret_cast<uint8_t*>(args.scratch);
  float* scales = args.scratch + uint64_t{args.n_queries} * kTableBytes / sizeof(float);
  float* offsets = scales + args.n_queries;
  for (uint32_t i = 0; i < args.n_queries; ++i)
    kernels_->index.pq_table({.centroids = book.centroids(),
                              .q = args.q + uint64_t{i} * layout_.head_dim,
                              .head_dim = layout_.head_dim,
                              .table = tables + uint64_t{i} * kTableBytes,
                              .scale = scales + i,
                              .offset = offsets + i});
  // As much of it as there are codes: of narrow heads it is smaller, and in the cache soon enough.
  const bool fetches_next =
      next != nullptr && next->bytes().size() >= (end_extent - first_extent) * kPqTileBytes;
  kernels_->index.pq_scan(
      {.tiles = table_.tiles(args.stream).data() + first_extent,
       .n_tiles = end_extent - first_extent,
       .tables = tables,
       .scales = scales,
       .offsets = offsets,
       .n_queries = args.n_queries,
       .block_scores = args.log_weights + uint64_t{first_extent} * kExtentBlocks,
       .score_stride = args.weight_stride,
       .next_tile = next == nullptr ? nullptr : table_.tiles(args.stream)[end_extent],
       .ahead = fetches_next ? next->bytes().data() : nullptr});
}

/// Blocks [first_block, end_block), which are kept.
void PqSelector::score_kept(const EstimateArgs& args, uint32_t first_block) const {
  const Stream& s = streams_[args.stream];
  for (uint32_t block = first_block; block < args.end_block; ++block) {
    kernels_->index.load_k(layout_, kept_block(s, block - s.n_coded()), args.scratch);
    kernels_->index.key_scores({.keys = args.scratch,
                                .q = args.q,
                                .head_dim = layout_.head_dim,
                                .n_queries = args.n_queries,
                                .block_scores = args.log_weights + block,
                                .score_stride = args.weight_stride});
  }
}

void PqSelector::estimate(const EstimateArgs& args) const {
  check_blocks(args);
  const Stream& s = at(args.stream);
  STRATA_CHECK(args.end_block <= s.n_observed, "block %u of %u", args.end_block, s.n_observed);
  const auto extents =
      static_cast<uint32_t>(div_up(std::min(args.end_block, s.n_coded()), kExtentBlocks));
  for (uint32_t extent = args.first_block / kExtentBlocks; extent < extents;) {
    const uint32_t segment = extent / kSegmentExtents;
    const uint32_t end = std::min((segment + 1) * kSegmentExtents, extents);
    // A codebook comes while the codes before it are scanned; what says where it lies, before that.
    if (segment + 2 < s.codebooks.size()) __builtin_prefetch(s.codebooks[segment + 2].get());
    if (segment + 8 < s.codebooks.size()) __builtin_prefetch(&s.codebooks[segment + 8]);
    scan(args, *s.codebooks[segment], end < extents ? s.codebooks[segment + 1].get() : nullptr,
         extent, end);
    extent = end;
  }
  if (args.end_block > s.n_coded()) score_kept(args, std::max(args.first_block, s.n_coded()));
  for (auto block = std::ranges::lower_bound(s.infinite, args.first_block);
       block != s.infinite.end() && *block < args.end_block; ++block)
    for (uint32_t i = 0; i < args.n_queries; ++i)
      args.log_weights[i * args.weight_stride + *block] = kInfinity;
}

void PqSelector::truncate(uint32_t n_blocks) {
  table_.truncate(n_blocks);
  for (Stream& s : streams_) {
    if (n_blocks >= s.n_observed) continue;
    s.n_kept = n_blocks - std::min(n_blocks, s.n_coded());
    s.n_observed = n_blocks;
    while (!s.infinite.empty() && s.infinite.back() >= n_blocks) s.infinite.pop_back();
    if (const uint64_t n = div_up(n_blocks, kSegmentBlocks); n < s.codebooks.size())
      s.codebooks.resize(n);
    s.n_of_text = std::min(s.n_of_text, n_blocks / kSegmentBlocks);
  }
}

std::unique_ptr<Selector> PqSelector::fork() const {
  return std::unique_ptr<Selector>(new PqSelector(*this));
}

}  // namespace strata::index
