#include "index/digest_selector.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/half.h"

namespace strata::index {
namespace {

/// One dimension of the keys of a page.
struct Values {
  float least, largest, mean, deviation;
};

Values measure(const float* keys) {
  Values v{keys[0], keys[0], 0, 0};
  float sum = 0;
  for (uint32_t i = 0; i < kPagePositions; ++i) {
    v.least = std::min(v.least, keys[i]);
    v.largest = std::max(v.largest, keys[i]);
    sum += keys[i];
  }
  v.mean = sum / kPagePositions;
  const float centre = v.least + (v.largest - v.least) / 2;
  for (uint32_t i = 0; i < kPagePositions; ++i) v.deviation += std::fabs(keys[i] - centre);
  v.deviation /= kPagePositions;
  return v;
}

bool all_finite(const float* keys, uint32_t n) {
  return std::all_of(keys, keys + n, [](float x) { return std::isfinite(x); });
}

/// Entry `dim` of page `page` of a digest tile.
uint16_t& entry(std::byte* tile, uint32_t dim, uint32_t page) {
  return reinterpret_cast<uint16_t*>(tile)[(dim / 2 * kTilePages + page) * 2 + dim % 2];
}

}  // namespace

DigestSelector::DigestSelector(Digest digest, const KvLayout& layout, const KernelTable& kernels,
                               std::shared_ptr<TileMemory> memory, uint32_t n_streams)
    : TiledSelector(layout, kernels, std::move(memory),
                    digest_tile_bytes(n_dims(digest, layout.head_dim)), n_streams),
      digest_(digest) {
  STRATA_CHECK(layout.head_dim % 2 == 0 && layout.head_dim <= kMaxHeadDim, "head_dim=%u",
               layout.head_dim);
}

void DigestSelector::observe(StreamIdx stream, uint32_t block_idx, const std::byte* block) {
  alignas(64) std::array<float, size_t{kMaxHeadDim} * kBlockPositions> keys;
  kernels_->index.load_k(layout_, block, keys.data());
  const uint32_t head_dim = layout_.head_dim;
  std::byte* tile = open_tile(stream, block_idx);
  const uint32_t first_page = block_idx % kExtentBlocks * kPagesPerBlock;
  // A key that is not finite has no digest: its whole block becomes NaN, which estimate() turns
  // into +infinity.
  const bool is_finite = all_finite(keys.data(), head_dim * kBlockPositions);
  for (uint32_t page = 0; page < kPagesPerBlock; ++page)
    for (uint32_t d = 0; d < head_dim; ++d) {
      Values v = measure(keys.data() + d * kBlockPositions + page * kPagePositions);
      if (!is_finite) v.least = v.largest = v.mean = std::numeric_limits<float>::quiet_NaN();
      const float centre = v.least + (v.largest - v.least) / 2;
      const uint32_t to = first_page + page;
      switch (digest_) {
        case Digest::kMean:
          entry(tile, d, to) = f32_to_bf16(v.mean);
          break;
        case Digest::kBounds:
          entry(tile, d, to) = f32_to_bf16(v.largest);
          entry(tile, head_dim + d, to) = f32_to_bf16(v.least);
          break;
        case Digest::kCuboid:
          entry(tile, d, to) = f32_to_bf16(centre + v.deviation);
          entry(tile, head_dim + d, to) = f32_to_bf16(centre - v.deviation);
          break;
      }
    }
}

uint64_t DigestSelector::scratch_floats(uint32_t n_queries) const {
  return div_up(uint64_t{n_queries} * n_dims(digest_, layout_.head_dim), 2);
}

void DigestSelector::put_query(const float* q, uint16_t* out) const {
  const uint32_t head_dim = layout_.head_dim;
  for (uint32_t d = 0; d < head_dim; ++d) {
    const float x = q[d];
    if (digest_ == Digest::kMean) {
      out[d] = f32_to_bf16(x);
    } else {
      out[d] = f32_to_bf16(x > 0 ? x : 0);
      out[head_dim + d] = f32_to_bf16(x < 0 ? x : 0);
    }
  }
}

void DigestSelector::estimate(const EstimateArgs& args) const {
  check_blocks(args);
  const uint32_t n = n_dims(digest_, layout_.head_dim);
  auto* q = reinterpret_cast<uint16_t*>(args.scratch);
  for (uint32_t i = 0; i < args.n_queries; ++i)
    put_query(args.q + uint64_t{i} * layout_.head_dim, q + uint64_t{i} * n);
  const uint32_t first_tile = args.first_block / kExtentBlocks;
  const auto n_tiles = static_cast<uint32_t>(div_up(args.end_block, kExtentBlocks)) - first_tile;
  kernels_->index.digest_scores({.tiles = table_.tiles(args.stream).data() + first_tile,
                                 .n_tiles = n_tiles,
                                 .n_dims = n,
                                 .q = q,
                                 .n_queries = args.n_queries,
                                 .block_scores = args.log_weights + args.first_block,
                                 .score_stride = args.weight_stride});
  for (uint32_t i = 0; i < args.n_queries; ++i) {
    float* weights = args.log_weights + i * args.weight_stride;
    for (uint32_t block = args.first_block; block < args.end_block; ++block)
      if (std::isnan(weights[block])) weights[block] = std::numeric_limits<float>::infinity();
  }
}

std::unique_ptr<Selector> DigestSelector::fork() const {
  return std::unique_ptr<Selector>(new DigestSelector(*this));
}

}  // namespace strata::index
