#include "index/choose.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "base/check.h"

namespace strata::index {
namespace {

// Pooled shares are sorted by the top bits of their representation, which are ordered as the values
// are (none is negative): 8 bits of exponent and 4 of mantissa.
constexpr uint32_t kBucketShift = 19;
constexpr uint32_t kBuckets = 1u << (31 - kBucketShift);

uint32_t bucket_of(float share) { return std::bit_cast<uint32_t>(share) >> kBucketShift; }

bool has_bit(std::span<const uint64_t> bits, uint32_t idx) {
  return (bits[idx / 64] >> (idx % 64) & 1u) != 0;
}

/// Blocks that a step of n_positions may attend besides its open ones, for budgets that are a
/// number of positions.
uint32_t allowed_blocks(const Budget& budget, const ChooseArgs& args) {
  const double positions = budget.kind == Budget::Kind::kTokens
                               ? budget.value
                               : budget.value * static_cast<double>(args.n_positions);
  const double open = args.n_positions - double{kBlockPositions} * args.n_blocks;
  const double blocks = std::floor((positions - open) / kBlockPositions);
  return static_cast<uint32_t>(std::clamp(blocks, 0.0, static_cast<double>(args.n_blocks)));
}

}  // namespace

Chooser::Chooser(const KernelTable& kernels, const Rule& rule) : kernels_(&kernels), rule_(rule) {}

void Chooser::reserve(uint32_t n_blocks) {
  pooled_.reserve(n_blocks);
  order_.reserve(n_blocks);
  choice_.blocks.reserve(n_blocks);
}

/// Moves the n largest of order_[from, ..) to its front; of equals the earlier blocks.
void Chooser::put_largest_first(uint32_t from, uint32_t n) {
  const uint32_t n_candidates = static_cast<uint32_t>(order_.size()) - from;
  if (n == 0 || n >= n_candidates) return;
  std::array<uint32_t, kBuckets> counts{};
  for (uint32_t i = from; i < order_.size(); ++i) ++counts[bucket_of(pooled_[order_[i]])];
  uint32_t bucket = kBuckets;
  uint32_t n_above = 0;  // candidates in higher buckets than the one where the n-th largest lies
  while (n_above + counts[--bucket] < n) n_above += counts[bucket];
  // std::stable_partition would allocate, and the order within a part decides nothing: equals are
  // told apart by their blocks.
  const auto begin = order_.begin() + from;
  const auto edge = std::partition(begin, order_.end(),
                                   [&](uint32_t b) { return bucket_of(pooled_[b]) > bucket; });
  const auto rest = std::partition(edge, order_.end(),
                                   [&](uint32_t b) { return bucket_of(pooled_[b]) == bucket; });
  std::nth_element(edge, begin + n, rest, [&](uint32_t a, uint32_t b) {
    return pooled_[a] != pooled_[b] ? pooled_[a] > pooled_[b] : a < b;
  });
}

/// The blocks that reach the share `mass` with those always attended, the largest first.
uint32_t Chooser::count_for_mass(uint32_t from, double mass, double always, double total) {
  std::sort(order_.begin() + from, order_.end(), [&](uint32_t a, uint32_t b) {
    return pooled_[a] != pooled_[b] ? pooled_[a] > pooled_[b] : a < b;
  });
  double sum = always;
  uint32_t n = 0;
  while (from + n < order_.size() && sum < mass * total) sum += pooled_[order_[from + n++]];
  return n;
}

/// Blocks within `gap` of the largest weight of some query, moved to the front.
uint32_t Chooser::count_in_gap(uint32_t from, double gap, const ChooseArgs& args) {
  const auto end = std::partition(order_.begin() + from, order_.end(), [&](uint32_t block) {
    for (uint32_t query = 0; query < args.n_queries; ++query) {
      const float* weights = args.log_weights.data() + uint64_t{query} * args.weight_stride;
      if (weights[block] >= largest_[query] - gap) return true;
    }
    return false;
  });
  return static_cast<uint32_t>(end - order_.begin()) - from;
}

/// Lets resident blocks stand in for absent ones that were chosen, the cheapest exchange first.
void Chooser::prefer_resident(uint32_t from, uint32_t n, std::span<const uint64_t> resident,
                              double allowed_loss) {
  if (resident.empty() || allowed_loss <= 0) return;
  const auto begin = order_.begin() + from;
  const auto by_share = [&](uint32_t a, uint32_t b) {
    return pooled_[a] != pooled_[b] ? pooled_[a] > pooled_[b] : a < b;
  };
  // Absent ones last among the chosen, the smallest at the end; resident ones first among the rest.
  const auto absent =
      std::partition(begin, begin + n, [&](uint32_t b) { return has_bit(resident, b); });
  if (absent == begin + n) return;
  std::sort(absent, begin + n, by_share);
  const auto rest_end =
      std::partition(begin + n, order_.end(), [&](uint32_t b) { return has_bit(resident, b); });
  const auto n_useful = std::min(begin + n - absent, rest_end - (begin + n));
  std::partial_sort(begin + n, begin + n + n_useful, rest_end, by_share);
  double loss = 0;
  auto out = begin + n;
  for (auto in = begin + n; in != begin + n + n_useful; ++in) {
    loss += double{pooled_[*(out - 1)]} - double{pooled_[*in]};
    if (loss > allowed_loss) return;
    std::swap(*--out, *in);
  }
}

const Choice& Chooser::choose(const ChooseArgs& args) {
  const uint32_t n_blocks = args.n_blocks;
  STRATA_CHECK(args.log_weights.size() >=
                   uint64_t{args.n_queries} * args.weight_stride - (args.weight_stride - n_blocks),
               "%zu weights", args.log_weights.size());
  pooled_.resize(n_blocks);
  kernels_->index.pool_shares({.log_weights = args.log_weights.data(),
                               .weight_stride = args.weight_stride,
                               .n_queries = args.n_queries,
                               .n_blocks = n_blocks,
                               .is_max = rule_.pool == Pool::kMax,
                               .pooled = pooled_.data()});
  const uint32_t n_sinks = std::min(rule_.n_sink_blocks, n_blocks);
  const uint32_t window_begin =
      std::max(n_sinks, n_blocks - std::min(rule_.n_window_blocks, n_blocks));
  // order_: those always attended, then the candidates.
  order_.clear();
  for (uint32_t block = 0; block < n_sinks; ++block) order_.push_back(block);
  for (uint32_t block = window_begin; block < n_blocks; ++block) order_.push_back(block);
  const auto n_always = static_cast<uint32_t>(order_.size());
  double always = 0;
  for (const uint32_t block : order_) always += pooled_[block];
  double total = always;
  for (uint32_t block = n_sinks; block < window_begin; ++block) {
    order_.push_back(block);
    total += pooled_[block];
  }
  const uint32_t n_candidates = window_begin - n_sinks;
  uint32_t n = 0;
  switch (rule_.budget.kind) {
    case Budget::Kind::kTokens:
    case Budget::Kind::kShare: {
      const uint32_t allowed = allowed_blocks(rule_.budget, args);
      n = std::min(n_candidates, allowed - std::min(allowed, n_always));
      put_largest_first(n_always, n);
      break;
    }
    case Budget::Kind::kMass:
      n = count_for_mass(n_always, rule_.budget.value, always, total);
      break;
    case Budget::Kind::kLogGap:
      find_largest(args);
      n = count_in_gap(n_always, rule_.budget.value, args);
      break;
  }
  double chosen = 0;
  for (uint32_t i = 0; i < n; ++i) chosen += pooled_[order_[n_always + i]];
  prefer_resident(n_always, n, args.resident, rule_.residency_tolerance * chosen);
  choice_.blocks.assign(order_.begin(), order_.begin() + n_always + n);
  std::ranges::sort(choice_.blocks);
  double share = 0;
  for (const uint32_t block : choice_.blocks) share += pooled_[block];
  choice_.estimated_share = total > 0 ? share / total : 1.0;
  return choice_;
}

void Chooser::find_largest(const ChooseArgs& args) {
  largest_.clear();
  for (uint32_t query = 0; query < args.n_queries; ++query) {
    const float* weights = args.log_weights.data() + uint64_t{query} * args.weight_stride;
    largest_.push_back(*std::max_element(weights, weights + args.n_blocks));
  }
}

}  // namespace strata::index
