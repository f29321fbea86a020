#include "tools/rivals/representatives.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"

namespace strata::rivals {

std::vector<float> local_scores(const TraceCase& on, uint32_t stream, uint32_t n_following) {
  const eval::AttentionTrace& trace = on.trace();
  const uint32_t first_query = trace.n_positions - trace.n_steps;
  if (first_query > on.first() + 1)
    throw Error(ErrorCode::kUnsupported, "the trace lacks the queries that follow its keys", "",
                "record it with --steps as many as --positions less 32");
  const uint32_t n_dims = on.head_dim();
  // sums[p]: of all queries before the position first_query + p.
  std::vector<std::vector<double>> sums(1, std::vector<double>(n_dims));
  for (uint32_t pos = first_query; pos < on.first_judged(); ++pos) {
    const std::vector<float> q = trace.query(stream, pos - first_query);
    std::vector<double> sum = sums.back();
    for (size_t i = 0; i < q.size(); ++i) sum[i % n_dims] += double{q[i]} / on.group();
    sums.push_back(std::move(sum));
  }
  std::vector<float> scores;
  for (uint32_t key = 0; key < on.n_blocks() * kBlockPositions; ++key) {
    const uint32_t from = std::max(key + 1, first_query) - first_query;
    const uint32_t to = std::min(key + 1 + n_following, on.first_judged());
    const uint32_t until = std::max(to, first_query) - first_query;
    double score = 0;
    for (uint32_t d = 0; from < until && d < n_dims; ++d)
      score += (sums[until][d] - sums[from][d]) / (until - from) * double{on.key(stream, key)[d]};
    scores.push_back(static_cast<float>(score));
  }
  return scores;
}

std::vector<float> representative(const TraceCase& on, uint32_t stream, uint32_t first,
                                  uint32_t end, std::span<const float> scores, uint32_t n_keys) {
  std::vector<uint32_t> keys(end - first);
  std::iota(keys.begin(), keys.end(), first);
  std::ranges::stable_sort(keys, [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
  keys.resize(std::min<size_t>(n_keys, keys.size()));
  std::vector<float> mean(on.head_dim());
  for (const uint32_t key : keys)
    for (uint32_t d = 0; d < on.head_dim(); ++d)
      mean[d] += on.key(stream, key)[d] / static_cast<float>(keys.size());
  return mean;
}

RepresentativeRival::RepresentativeRival(const TraceCase& on, const KernelTable& kernels,
                                         index::Budget budget, const RepresentativeRule& rule)
    : BlockRival(on, kernels, budget), rule_(rule), of_(on.n_streams()) {
  STRATA_CHECK(rule.block_positions % kBlockPositions == 0, "spans of %u", rule.block_positions);
  const uint32_t n_keys = on.n_blocks() * kBlockPositions;
  for (uint32_t stream = 0; stream < on.n_streams(); ++stream) {
    const std::vector<float> scores = local_scores(on, stream, rule.n_following);
    for (uint32_t first = 0; first < n_keys; first += rule.block_positions)
      of_[stream].push_back(representative(
          on, stream, first, std::min(first + rule.block_positions, n_keys), scores, rule.n_keys));
  }
}

BlockWeights RepresentativeRival::estimate(uint32_t stream, uint32_t step) {
  const uint32_t n_kv_heads = on_.trace().n_kv_heads;
  const uint32_t layer_begin = stream / n_kv_heads * n_kv_heads;
  const uint32_t begin = rule_.is_of_layer ? layer_begin : stream;
  const uint32_t end = rule_.is_of_layer ? layer_begin + n_kv_heads : stream + 1;
  BlockWeights weights{.n_rows = rule_.is_of_layer ? 1 : on_.group(), .stride = on_.n_blocks()};
  weights.values.resize(weights.n_rows * weights.stride);
  for (uint32_t of = begin; of < end; ++of) {
    const std::vector<float> q = on_.query(of, step);
    for (uint32_t head = 0; head < on_.group(); ++head)
      for (uint32_t block = 0; block < on_.n_blocks(); ++block) {
        const auto& key = of_[of][block * kBlockPositions / rule_.block_positions];
        weights.values[head % weights.n_rows * weights.stride + block] +=
            dot(q.data() + uint64_t{head} * on_.head_dim(), key.data(), on_.head_dim());
      }
  }
  return weights;
}

}  // namespace strata::rivals
