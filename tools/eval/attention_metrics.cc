#include "tools/eval/attention_metrics.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "base/checked_math.h"

namespace strata::eval {
namespace {

constexpr double kUsefulShare = 0.99;
constexpr double kLeastCounted = 1e-9;  // of the weight: what is less says as much

/// How many of `blocks` are in `others`; both ascending.
uint64_t n_shared(std::span<const uint32_t> blocks, std::span<const uint32_t> others) {
  std::vector<uint32_t> both;
  std::ranges::set_intersection(blocks, others, std::back_inserter(both));
  return both.size();
}

double share_of(uint64_t part, uint64_t whole) {
  return static_cast<double>(part) / static_cast<double>(whole);
}

/// Turns logarithms into shares of their sum, and returns its logarithm.
double make_shares(std::span<float> weights) {
  const float top = *std::ranges::max_element(weights);
  double total = 0;
  for (float& weight : weights) total += weight = std::exp(weight - top);
  for (float& weight : weights) weight = static_cast<float>(weight / total);
  return double{top} + std::log(total);
}

}  // namespace

void AttentionTally::add_each(std::vector<Mean>& sums, const std::vector<Mean>& others) {
  sums.resize(std::max(sums.size(), others.size()));
  for (size_t i = 0; i < others.size(); ++i) sums[i].add(others[i]);
}

void AttentionTally::add(const AttentionTally& other) {
  add_each(mass_, other.mass_);
  add_each(layer_mass_, other.layer_mass_);
  add_each(layer_errors_, other.layer_errors_);
  errors_.insert(errors_.end(), other.errors_.begin(), other.errors_.end());
  set_recall_.add(other.set_recall_);
  reuse_.add(other.reuse_);
  weight_bias_.add(other.weight_bias_);
  chosen_blocks_ += other.chosen_blocks_;
  useful_blocks_ += other.useful_blocks_;
}

AttentionSummary AttentionTally::summary() const {
  Mean all;
  std::vector<double> of_heads;
  for (const Mean& head : mass_) {
    all.add(head);
    if (head.n > 0) of_heads.push_back(head.value());
  }
  const Summary heads = summarise(std::move(of_heads));
  const Summary errors = summarise(errors_);
  std::vector<LayerFigures> layers;
  for (uint32_t layer = 0; layer < layer_errors_.size(); ++layer)
    if (layer_errors_[layer].n > 0)
      layers.push_back({layer, layer_mass_[layer].value(), layer_errors_[layer].value()});
  return {.mass_mean = all.value(),
          .mass_p10 = heads.p10,
          .mass_least = heads.least,
          .error_median = errors.median,
          .error_p99 = errors.p99,
          .set_recall = set_recall_.value(),
          .reuse = reuse_.value(),
          .fetched_over_useful = useful_blocks_ == 0 ? 0 : share_of(chosen_blocks_, useful_blocks_),
          .weight_bias = weight_bias_.value(),
          .layers = std::move(layers)};
}

AttentionMetrics::AttentionMetrics(const engine::KvCache& cache,
                                   std::unique_ptr<index::Selector> oracle, const index::Rule& rule,
                                   std::span<const double> held_shares)
    : cache_(cache), oracle_(std::move(oracle)), rule_(rule), last_(cache.n_index_streams()) {
  if (!held_shares.empty()) missing_.emplace(cache, held_shares);
  uint32_t n_queries = 0;
  for (const LayerShape& layer : cache.shape().layers) {
    first_query_.push_back(n_queries);
    n_queries += layer.n_heads;
  }
  tally_.mass_.resize(n_queries);
  tally_.layer_mass_.resize(cache.shape().layers.size());
  tally_.layer_errors_.resize(cache.shape().layers.size());
}

/// The blocks that became full since the last step.
void AttentionMetrics::take_in(const engine::Sequence& sequence, uint32_t n_blocks) {
  const uint32_t first = oracle_->n_blocks();
  if (first == n_blocks) return;
  oracle_->open_blocks(n_blocks);
  for (index::StreamIdx stream = 0; stream < cache_.n_index_streams(); ++stream) {
    const uint32_t layer = cache_.layer_of_index_stream(stream);
    const uint32_t kv_head = stream - cache_.index_stream(layer, 0);
    for (uint32_t block = first; block < n_blocks; ++block)
      oracle_->observe(stream, block,
                       cache_.block(sequence, layer, kv_head, block * kBlockPositions));
  }
}

/// weights_ [n_queries, n_blocks] and pooled_.
void AttentionMetrics::weigh(const engine::ProbedHead& head) {
  weights_.resize(uint64_t{head.n_queries} * head.n_blocks);
  oracle_->estimate({.stream = cache_.index_stream(head.layer, head.kv_head),
                     .q = head.q.data(),
                     .n_queries = head.n_queries,
                     .end_block = head.n_blocks,
                     .log_weights = weights_.data(),
                     .weight_stride = head.n_blocks});
  pooled_.assign(head.n_blocks, 0);
  log_totals_.clear();
  for (uint32_t query = 0; query < head.n_queries; ++query) {
    const auto shares = std::span(weights_).subspan(uint64_t{query} * head.n_blocks, head.n_blocks);
    log_totals_.push_back(make_shares(shares));
    for (uint32_t block = 0; block < head.n_blocks; ++block) pooled_[block] += shares[block];
  }
}

void AttentionMetrics::tally_mass(const engine::ProbedHead& head) {
  const LayerShape& of = cache_.shape().layers[head.layer];
  const uint32_t group = of.n_heads / of.n_kv_heads;
  for (uint32_t query = 0; query < head.n_queries; ++query) {
    const float* shares = weights_.data() + uint64_t{query} * head.n_blocks;
    double all = 0, chosen = 0;
    for (uint32_t block = first_; block < end_; ++block) all += shares[block];
    for (const uint32_t block : head.chosen) chosen += is_candidate(block) ? shares[block] : 0;
    if (all <= 0) continue;  // every candidate's share is below the smallest float
    const double found = std::min(chosen / all, 1.0);
    tally_.mass_[first_query_[head.layer] + head.kv_head * group + query % group].put(found);
    tally_.layer_mass_[head.layer].put(found);
  }
}

void AttentionMetrics::tally_error(const engine::ProbedHead& head) {
  const size_t head_dim = head.exact.size() / head.n_queries;
  for (size_t query = 0; query < head.n_queries; ++query) {
    double error = 0, norm = 0;
    for (size_t i = query * head_dim; i < (query + 1) * head_dim; ++i) {
      const double difference = double{head.selected[i]} - head.exact[i];
      error += difference * difference;
      norm += double{head.exact[i]} * head.exact[i];
    }
    if (norm <= 0) continue;
    tally_.errors_.push_back(std::sqrt(error / norm));
    tally_.layer_errors_[head.layer].put(tally_.errors_.back());
  }
}

void AttentionMetrics::tally_choice(const engine::ProbedHead& head) {
  const auto by_weight = [&](uint32_t a, uint32_t b) {
    return pooled_[a] != pooled_[b] ? pooled_[a] > pooled_[b] : a < b;
  };
  std::vector<uint32_t> chosen;
  std::ranges::copy_if(head.chosen, std::back_inserter(chosen),
                       [&](uint32_t block) { return is_candidate(block); });
  if (!chosen.empty()) {
    order_.resize(end_ - first_);
    std::iota(order_.begin(), order_.end(), first_);
    const auto best_end = order_.begin() + static_cast<std::ptrdiff_t>(chosen.size());
    std::ranges::nth_element(order_, best_end, by_weight);
    order_.erase(best_end, order_.end());
    std::ranges::sort(order_);
    tally_.set_recall_.put(share_of(n_shared(chosen, order_), chosen.size()));
    auto& last = last_[cache_.index_stream(head.layer, head.kv_head)];
    if (!last.empty()) tally_.reuse_.put(share_of(n_shared(chosen, last), chosen.size()));
    last = chosen;
  }
  order_.resize(head.n_blocks);
  std::iota(order_.begin(), order_.end(), 0u);
  std::ranges::sort(order_, by_weight);
  double sum = 0;
  uint32_t n_useful = 0;
  while (n_useful < head.n_blocks && sum < kUsefulShare * head.n_queries)
    sum += pooled_[order_[n_useful++]];
  tally_.chosen_blocks_ += head.chosen.size();
  tally_.useful_blocks_ += n_useful;
}

/// left_out_ of a head whose index has a tail: what it estimates of blocks that were not chosen.
void AttentionMetrics::estimate_left_out(const engine::ProbedHead& head) {
  const index::Selector& index = *head.sequence->index();
  const uint64_t n_floats = index.scratch_floats(head.n_queries);
  if (scratch_.size() < n_floats * sizeof(float))
    scratch_ = HostMemory::reserve(n_floats * sizeof(float));
  const uint64_t stride = round_up(head.n_blocks, kExtentBlocks);
  estimates_.resize(std::max(estimates_.size(), head.n_queries * stride));
  index.estimate({.stream = cache_.index_stream(head.layer, head.kv_head),
                  .q = head.q.data(),
                  .n_queries = head.n_queries,
                  .end_block = head.n_blocks,
                  .scratch = scratch_.as<float>(n_floats).data(),
                  .log_weights = estimates_.data(),
                  .weight_stride = stride});
  for (uint32_t query = 0; query < head.n_queries; ++query) {
    float* of = estimates_.data() + query * stride;
    for (const uint32_t block : head.chosen) of[block] = -std::numeric_limits<float>::infinity();
    const float top = *std::max_element(of, of + head.n_blocks);
    double sum = std::isfinite(top) ? 0 : 1;
    for (uint32_t block = 0; block < head.n_blocks && std::isfinite(top); ++block)
      sum += std::exp(double{of[block]} - top);
    left_out_.push_back(double{top} + std::log(sum));
  }
}

void AttentionMetrics::tally_bias(const engine::ProbedHead& head) {
  left_out_.clear();
  if (head.sequence->index()->has_tail() && head.chosen.size() < head.n_blocks &&
      rule_.mode_of(head.layer) == index::LayerMode::kIndex)
    estimate_left_out(head);
  for (uint32_t query = 0; query < head.n_queries; ++query) {
    const float* shares = weights_.data() + uint64_t{query} * head.n_blocks;
    double counted = 0;
    for (const uint32_t block : head.chosen) counted += shares[block];
    if (!std::isfinite(log_totals_[query])) continue;
    if (!left_out_.empty()) counted += std::exp(left_out_[query] - log_totals_[query]);
    tally_.weight_bias_.put(std::log(std::clamp(counted, kLeastCounted, 1 / kLeastCounted)));
  }
}

bool AttentionMetrics::holds(uint32_t layer, uint32_t kv_head, uint32_t block) const {
  return !missing_ || missing_->holds(layer, kv_head, block);
}

std::optional<MissingTally> AttentionMetrics::missing() const {
  return missing_ ? std::optional(missing_->tally()) : std::nullopt;
}

void AttentionMetrics::hear(const engine::ProbedHead& head) {
  tally_error(head);
  if (head.n_blocks == 0) return;
  take_in(*head.sequence, head.n_blocks);
  const uint32_t n_window = std::min(rule_.n_window_blocks, head.n_blocks);
  first_ = std::min(rule_.n_sink_blocks, head.n_blocks);
  end_ = std::max(first_, head.n_blocks - n_window);
  weigh(head);
  if (missing_) missing_->hear(head, pooled_);
  if (first_ < end_) tally_mass(head);
  tally_choice(head);
  tally_bias(head);
}

}  // namespace strata::eval
