#include "index/choose.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace strata::index {
namespace {

// Pooled shares are sorted by the top bits of their representation, which are ordered as the values
// are (none is negative): 8 bits of exponent and 4 of mantissa.
constexpr uint32_t kBucketShift = 19;
constexpr uint32_t kBuckets = 1u << (31 - kBucketShift);

uint32_t bits_of(float share) { return std::bit_cast<uint32_t>(share); }
uint32_t bucket_of(float share) { return bits_of(share) >> kBucketShift; }

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

/// In four parts, so that an addition does not wait for the one before it.
double sum_of(std::span<const float> shares) {
  std::array<double, 4> sums{};
  size_t i = 0;
  for (; i + sums.size() <= shares.size(); i += sums.size())
    for (size_t part = 0; part < sums.size(); ++part) sums[part] += shares[i + part];
  for (; i < shares.size(); ++i) sums[0] += shares[i];
  return sums[0] + sums[1] + (sums[2] + sums[3]);
}

/// Larger shares first, and of equals the earlier block: no two blocks are equal.
struct BySharesOf {
  std::span<const float> shares;
  bool operator()(uint32_t a, uint32_t b) const {
    return shares[a] != shares[b] ? shares[a] > shares[b] : a < b;
  }
};

}  // namespace

Chooser::Chooser(const KernelTable& kernels, const Rule& rule) : kernels_(&kernels), rule_(rule) {}

void Chooser::reserve(uint32_t n_blocks, uint32_t n_queries) {
  pooled_.reserve(n_blocks);
  order_.reserve(n_blocks);
  edge_.reserve(n_blocks);
  choice_.blocks.reserve(n_blocks);
  largest_.reserve(n_queries);
}

/// order_: the n largest of the candidates [first, end), ascending; of equals the earlier blocks.
void Chooser::take_largest(uint32_t first, uint32_t end, uint32_t n) {
  if (n == end - first) return list_candidates(first, end);
  if (n == 0) return order_.clear();
  order_.resize(end - first);
  std::array<uint32_t, kBuckets> counts{};
  for (uint32_t block = first; block < end; ++block) ++counts[bucket_of(pooled_[block])];
  uint32_t bucket = kBuckets;
  uint32_t n_above = 0;  // candidates in higher buckets than the one where the n-th largest lies
  while (n_above + counts[--bucket] < n) n_above += counts[bucket];
  // Those of the bucket and above, without a branch, which would be wrong once for each of them.
  uint32_t n_listed = 0;
  for (uint32_t block = first; block < end; ++block) {
    order_[n_listed] = block;
    n_listed += bucket_of(pooled_[block]) >= bucket ? 1u : 0u;
  }
  order_.resize(n_listed);
  edge_.resize(n_listed);
  uint32_t n_edge = 0;
  for (const uint32_t block : order_) {
    edge_[n_edge] = bits_of(pooled_[block]);
    n_edge += edge_[n_edge] >> kBucketShift == bucket ? 1u : 0u;
  }
  edge_.resize(n_edge);
  keep_largest(bucket, n - n_above);
}

/// Leaves of order_ those above the bucket and the n largest of it, whose bits are in edge_: bit by
/// bit the largest number that n of them reach. Sorting them in part instead takes a branch for
/// each, wrong for one in two.
void Chooser::keep_largest(uint32_t bucket, uint32_t n) {
  uint32_t least = bucket << kBucketShift;
  auto n_reach = static_cast<uint32_t>(edge_.size());
  for (uint32_t bit = 1u << (kBucketShift - 1); bit != 0 && n_reach > n; bit /= 2) {
    uint32_t n_above = 0;
    for (const uint32_t bits : edge_) n_above += bits >= (least | bit) ? 1u : 0u;
    if (n_above < n) continue;
    least |= bit;
    n_reach = n_above;
  }
  // Of those that are `least` the first ones stay.
  uint32_t n_equal = static_cast<uint32_t>(std::ranges::count(edge_, least)) - (n_reach - n);
  uint32_t n_kept = 0;
  for (const uint32_t block : order_) {
    const uint32_t bits = bits_of(pooled_[block]);
    const bool is_least = bits == least && n_equal > 0;
    n_equal -= is_least ? 1u : 0u;
    order_[n_kept] = block;
    n_kept += bits > least || is_least ? 1u : 0u;
  }
  order_.resize(n_kept);
}

/// order_: all candidates [first, end).
void Chooser::list_candidates(uint32_t first, uint32_t end) {
  order_.resize(end - first);
  std::iota(order_.begin(), order_.end(), first);
}

/// After the chosen ones in order_, which are ascending, the other candidates [first, end).
void Chooser::append_others(uint32_t first, uint32_t end) {
  const auto n = static_cast<uint32_t>(order_.size());
  uint32_t next = 0;
  for (uint32_t block = first; block < end; ++block) {
    if (next < n && order_[next] == block)
      ++next;
    else
      order_.push_back(block);
  }
}

/// The blocks that reach the share `mass` with those always attended, the largest first.
uint32_t Chooser::count_for_mass(double mass, double always, double total) {
  std::ranges::sort(order_, BySharesOf{pooled_});
  double sum = always;
  uint32_t n = 0;
  while (n < order_.size() && sum < mass * total) sum += pooled_[order_[n++]];
  return n;
}

/// Blocks within `gap` of the largest weight of some query, moved to the front.
uint32_t Chooser::count_in_gap(double gap, const ChooseArgs& args) {
  const auto end = std::partition(order_.begin(), order_.end(), [&](uint32_t block) {
    for (uint32_t query = 0; query < args.n_queries; ++query) {
      const float* weights = args.log_weights.data() + uint64_t{query} * args.weight_stride;
      if (weights[block] >= largest_[query] - gap) return true;
    }
    return false;
  });
  return static_cast<uint32_t>(end - order_.begin());
}

/// Lets resident blocks stand in for absent ones that were chosen, the cheapest exchange first.
void Chooser::prefer_resident(uint32_t n, std::span<const uint64_t> resident, double allowed_loss) {
  const auto begin = order_.begin();
  const BySharesOf by_share{pooled_};
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

uint32_t Chooser::window_blocks(const ChooseArgs& args) const {
  const bool counts_positions =
      rule_.budget.kind == Budget::Kind::kTokens || rule_.budget.kind == Budget::Kind::kShare;
  if (!counts_positions || rule_.window_share <= 0) return rule_.n_window_blocks;
  const uint32_t allowed = allowed_blocks(rule_.budget, args);
  const auto of_budget = static_cast<uint32_t>(rule_.window_share * allowed);
  return std::max(rule_.n_window_blocks,
                  std::min(of_budget, allowed - std::min(allowed, rule_.n_sink_blocks)));
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
      std::max(n_sinks, n_blocks - std::min(window_blocks(args), n_blocks));
  const std::span<const float> shares = pooled_;
  const double total = sum_of(shares);
  const bool has_residency = !args.resident.empty() && rule_.residency_tolerance > 0;
  const uint32_t n_candidates = window_begin - n_sinks;
  uint32_t n = 0;  // of order_, the chosen ones
  switch (rule_.budget.kind) {
    case Budget::Kind::kTokens:
    case Budget::Kind::kShare: {
      const uint32_t allowed = allowed_blocks(rule_.budget, args);
      n = std::min(n_candidates, allowed - std::min(allowed, n_blocks - n_candidates));
      take_largest(n_sinks, window_begin, n);
      if (has_residency) append_others(n_sinks, window_begin);
      break;
    }
    case Budget::Kind::kMass: {
      const double always = sum_of(shares.first(n_sinks)) + sum_of(shares.subspan(window_begin));
      list_candidates(n_sinks, window_begin);
      n = count_for_mass(rule_.budget.value, always, total);
      break;
    }
    case Budget::Kind::kLogGap:
      find_largest(args);
      list_candidates(n_sinks, window_begin);
      n = count_in_gap(rule_.budget.value, args);
      break;
  }
  if (has_residency) {
    double chosen = 0;
    for (uint32_t i = 0; i < n; ++i) chosen += pooled_[order_[i]];
    prefer_resident(n, args.resident, rule_.residency_tolerance * chosen);
  }
  std::vector<uint32_t>& blocks = choice_.blocks;
  blocks.resize(n_sinks);
  std::iota(blocks.begin(), blocks.end(), 0u);
  blocks.insert(blocks.end(), order_.begin(), order_.begin() + n);
  if (!std::ranges::is_sorted(blocks)) std::ranges::sort(blocks);
  for (uint32_t block = window_begin; block < n_blocks; ++block) blocks.push_back(block);
  double share = 0;
  for (const uint32_t block : blocks) share += pooled_[block];
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
