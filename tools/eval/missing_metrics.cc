#include "tools/eval/missing_metrics.h"

#include <algorithm>

namespace strata::eval {
namespace {

uint64_t n_among(std::span<const uint32_t> blocks, std::span<const uint32_t> ascending) {
  return static_cast<uint64_t>(std::ranges::count_if(
      blocks, [&](uint32_t block) { return std::ranges::binary_search(ascending, block); }));
}

double ratio(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

void MissingTally::add(const MissingTally& other) {
  steps += other.steps;
  waits += other.waits;
  chosen += other.chosen;
  missing += other.missing;
  in_last += other.in_last;
  in_layer_before += other.in_layer_before;
  runners_up += other.runners_up;
  points.resize(std::max(points.size(), other.points.size()));
  for (size_t i = 0; i < other.points.size(); ++i) {
    points[i].share = other.points[i].share;
    points[i].missing += other.points[i].missing;
    points[i].missing_weighed += other.points[i].missing_weighed;
  }
}

double MissingTally::per_step(uint64_t count) const { return ratio(count, steps); }
double MissingTally::of_missing(uint64_t count) const { return ratio(count, missing); }
double MissingTally::hit_rate(uint64_t n_missing) const { return 1 - ratio(n_missing, chosen); }

MissingMetrics::MissingMetrics(const engine::KvCache& cache, std::span<const double> shares)
    : cache_(cache), last_(cache.n_index_streams()), runners_up_(last_.size()) {
  for (const double share : shares) tally_.points.push_back({.share = share});
}

bool MissingMetrics::holds(uint32_t layer, uint32_t kv_head, uint32_t block) const {
  return !held_.empty() && held_.front().recent.holds(cache_.index_stream(layer, kv_head), block);
}

void MissingMetrics::begin_step(uint32_t n_blocks) {
  const uint32_t n_streams = cache_.n_index_streams();
  is_counted_ = !held_.empty();
  if (is_counted_) {
    ++tally_.steps;
    // What the last step made is in memory.
    for (Memory& of : held_)
      for (uint32_t stream = 0; stream < n_streams; ++stream)
        for (uint32_t block = n_blocks_; block < n_blocks; ++block) {
          of.recent.put(stream, block);
          of.weighed.put(stream, block);
        }
  } else {
    for (const HeldPoint& point : tally_.points) {
      const double n_slots = std::max(1.0, point.share * n_streams * n_blocks);
      held_.push_back({HeldBlocks(n_streams, static_cast<uint64_t>(n_slots)),
                       WeighedBlocks(n_streams, static_cast<uint64_t>(n_slots))});
    }
  }
  n_blocks_ = n_blocks;
}

void MissingMetrics::begin_layer(uint32_t layer, uint32_t n_blocks) {
  const bool is_first = !layer_ || layer <= *layer_;
  if (is_first) begin_step(n_blocks);
  before_ = is_first ? std::nullopt : layer_;
  layer_ = layer;
  has_wait_ = false;
}

/// What the head has chosen, for the next step.
void MissingMetrics::note(const engine::ProbedHead& head, std::span<const double> pooled) {
  const uint32_t stream = cache_.index_stream(head.layer, head.kv_head);
  last_[stream].assign(head.chosen.begin(), head.chosen.end());
  auto& next = runners_up_[stream];
  next.clear();
  for (uint32_t block = 0; block < head.n_blocks; ++block)
    if (!std::ranges::binary_search(head.chosen, block)) next.push_back(block);
  const size_t n = std::min(next.size(), head.chosen.size());
  std::ranges::partial_sort(next, next.begin() + static_cast<std::ptrdiff_t>(n),
                            [&](uint32_t a, uint32_t b) { return pooled[a] > pooled[b]; });
  next.resize(n);
  std::ranges::sort(next);
}

void MissingMetrics::hear(const engine::ProbedHead& head, std::span<const double> pooled) {
  if (head.kv_head == 0) begin_layer(head.layer, head.n_blocks);
  const uint32_t stream = cache_.index_stream(head.layer, head.kv_head);
  std::span<const uint32_t> missing = head.chosen;
  for (size_t i = 0; i < held_.size(); ++i) {
    const auto lacked = held_[i].recent.use(stream, head.chosen);
    const uint64_t n_weighed = held_[i].weighed.use(stream, head.chosen, pooled);
    if (i == 0) missing = lacked;
    if (!is_counted_) continue;
    tally_.points[i].missing += lacked.size();
    tally_.points[i].missing_weighed += n_weighed;
  }
  if (is_counted_) {
    tally_.chosen += head.chosen.size();
    tally_.missing += missing.size();
    tally_.in_last += n_among(missing, last_[stream]);
    tally_.runners_up += n_among(missing, runners_up_[stream]);
    if (before_ && head.kv_head < cache_.shape().layers[*before_].n_kv_heads)
      tally_.in_layer_before +=
          n_among(missing, last_[cache_.index_stream(*before_, head.kv_head)]);
    if (!missing.empty() && !has_wait_) ++tally_.waits;
    has_wait_ = has_wait_ || !missing.empty();
  }
  note(head, pooled);
}

}  // namespace strata::eval
