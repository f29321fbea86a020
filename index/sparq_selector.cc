#include "index/sparq_selector.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "base/half.h"

namespace strata::index {
namespace {

constexpr uint16_t kHalfExponent = 0x7c00;  // all ones: an infinity or no number
constexpr uint16_t kHalfNan = 0x7e00;

using Components = std::array<uint32_t, kMaxHeadDim>;

/// The largest components of q come first, ascending by number; of equals the earlier ones. The
/// first ones where q is not finite. Returns the sum of the magnitudes of all.
double pick_components(const float* q, uint32_t head_dim, Components& components) {
  const uint32_t n = SparqSelector::n_components(head_dim);
  double sum = 0;
  for (uint32_t d = 0; d < head_dim; ++d) sum += std::fabs(double{q[d]});
  std::iota(components.begin(), components.begin() + head_dim, 0u);
  if (std::isfinite(sum))
    std::nth_element(components.begin(), components.begin() + n, components.begin() + head_dim,
                     [q](uint32_t a, uint32_t b) {
                       const float of_a = std::fabs(q[a]), of_b = std::fabs(q[b]);
                       return of_a != of_b ? of_a > of_b : a < b;
                     });
  std::sort(components.begin(), components.begin() + n);
  return sum;
}

/// What a scan takes of a query: its components and, times the temperature's factor, its values
/// there, which are no numbers where q is not finite.
void put_query(const float* q, uint32_t head_dim, uint32_t* to, float* values) {
  Components components;
  const double all = pick_components(q, head_dim, components);
  const uint32_t n = SparqSelector::n_components(head_dim);
  double kept = 0;
  for (uint32_t i = 0; i < n; ++i) kept += std::fabs(double{q[components[i]]});
  // q has the factor 1 / sqrt(d) of exact attention.
  double factor = kept > 0 ? std::sqrt(all / kept) : 1.0;
  if (!std::isfinite(all)) factor = std::numeric_limits<double>::quiet_NaN();
  for (uint32_t i = 0; i < n; ++i) {
    to[i] = components[i];
    values[i] = static_cast<float>(factor) * q[components[i]];
  }
}

}  // namespace

SparqSelector::SparqSelector(const KvLayout& layout, const KernelTable& kernels,
                             std::shared_ptr<TileMemory> memory, uint32_t n_streams)
    : TiledSelector(layout, kernels, std::move(memory), sparq_tile_bytes(layout.head_dim),
                    n_streams) {
  STRATA_CHECK(layout.head_dim > 0 && layout.head_dim <= kMaxHeadDim, "head_dim=%u",
               layout.head_dim);
}

void SparqSelector::observe(StreamIdx stream, uint32_t block_idx, const std::byte* block) {
  alignas(64) std::array<float, size_t{kMaxHeadDim} * kBlockPositions> keys;
  kernels_->index.load_k(layout_, block, keys.data());
  const uint32_t n = layout_.head_dim * kBlockPositions;
  auto* to = reinterpret_cast<uint16_t*>(open_tile(stream, block_idx)) + block_idx % kExtentBlocks;
  bool is_finite = true;
  for (uint32_t i = 0; i < n; ++i) {
    const uint16_t half = f32_to_f16(keys[i]);
    is_finite = is_finite && (half & kHalfExponent) != kHalfExponent;
    to[i * kExtentBlocks] = half;
  }
  // Whichever components a query reads, such a block weighs infinitely.
  for (uint32_t i = 0; i < n && !is_finite; ++i) to[i * kExtentBlocks] = kHalfNan;
}

uint64_t SparqSelector::scratch_floats(uint32_t n_queries) const {
  return uint64_t{n_queries} * 2 * n_components(layout_.head_dim);
}

void SparqSelector::estimate(const EstimateArgs& args) const {
  check_blocks(args);
  const uint32_t n = n_components(layout_.head_dim);
  auto* components = reinterpret_cast<uint32_t*>(args.scratch);
  float* values = args.scratch + uint64_t{args.n_queries} * n;
  for (uint64_t i = 0; i < args.n_queries; ++i)
    put_query(args.q + i * layout_.head_dim, layout_.head_dim, components + i * n, values + i * n);
  const uint32_t first_tile = args.first_block / kExtentBlocks;
  kernels_->index.sparq_scan(
      {.tiles = table_.tiles(args.stream).data() + first_tile,
       .n_tiles = static_cast<uint32_t>(div_up(args.end_block, kExtentBlocks)) - first_tile,
       .components = components,
       .values = values,
       .n_components = n,
       .n_queries = args.n_queries,
       .block_scores = args.log_weights + args.first_block,
       .score_stride = args.weight_stride,
       .head_dim = layout_.head_dim});
}

uint64_t SparqSelector::estimate_bytes(uint64_t n_blocks, const float* q,
                                       uint32_t n_queries) const {
  std::array<bool, kMaxHeadDim> is_read{};
  Components components;
  for (uint64_t i = 0; i < n_queries; ++i) {
    pick_components(q + i * layout_.head_dim, layout_.head_dim, components);
    for (uint32_t c = 0; c < n_components(layout_.head_dim); ++c) is_read[components[c]] = true;
  }
  const auto n_read = static_cast<uint64_t>(std::ranges::count(is_read, true));
  return div_up(n_blocks, kExtentBlocks) * n_read * kSparqRowBytes;
}

uint64_t SparqSelector::read_bytes_max(uint64_t n_blocks, uint32_t head_dim, uint32_t n_queries) {
  const uint64_t n = uint64_t{n_queries} * n_components(head_dim);
  return div_up(n_blocks, kExtentBlocks) * std::min<uint64_t>(n, head_dim) * kSparqRowBytes;
}

std::unique_ptr<Selector> SparqSelector::fork() const {
  return std::unique_ptr<Selector>(new SparqSelector(*this));
}

}  // namespace strata::index
