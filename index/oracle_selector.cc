#include "index/oracle_selector.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/checked_math.h"

namespace strata::index {
namespace {

/// ln(sum exp(q . k)) over the keys [head_dim][32] of a block.
float log_weight(const float* q, const float* keys, uint32_t head_dim) {
  std::array<float, kBlockPositions> scores{};
  for (uint32_t d = 0; d < head_dim; ++d)
    for (uint32_t i = 0; i < kBlockPositions; ++i)
      scores[i] += q[d] * keys[d * kBlockPositions + i];
  float top = -std::numeric_limits<float>::infinity();
  for (const float score : scores) {
    if (!std::isfinite(score)) return std::numeric_limits<float>::infinity();
    top = std::max(top, score);
  }
  float sum = 0;
  for (const float score : scores) sum += std::exp(score - top);
  return top + std::log(sum);
}

}  // namespace

OracleSelector::OracleSelector(const KvLayout& layout, const KernelTable& kernels,
                               std::shared_ptr<TileMemory> memory, uint32_t n_streams)
    : TiledSelector(layout, kernels, std::move(memory), tile_bytes(layout.head_dim), n_streams) {}

const float* OracleSelector::keys(StreamIdx stream, uint32_t block) const {
  return reinterpret_cast<const float*>(table_.tiles(stream)[block / kExtentBlocks]) +
         uint64_t{block % kExtentBlocks} * layout_.head_dim * kBlockPositions;
}

void OracleSelector::observe(StreamIdx stream, uint32_t block_idx, const std::byte* block) {
  auto* tile = reinterpret_cast<float*>(open_tile(stream, block_idx));
  kernels_->index.load_k(
      layout_, block,
      tile + uint64_t{block_idx % kExtentBlocks} * layout_.head_dim * kBlockPositions);
}

void OracleSelector::estimate(const EstimateArgs& args) const {
  check_blocks(args);
  for (uint32_t query = 0; query < args.n_queries; ++query) {
    const float* q = args.q + uint64_t{query} * layout_.head_dim;
    float* weights = args.log_weights + query * args.weight_stride;
    for (uint32_t block = args.first_block; block < args.end_block; ++block)
      weights[block] = log_weight(q, keys(args.stream, block), layout_.head_dim);
  }
}

std::unique_ptr<Selector> OracleSelector::fork() const {
  return std::unique_ptr<Selector>(new OracleSelector(*this));
}

}  // namespace strata::index
