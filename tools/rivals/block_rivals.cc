#include "tools/rivals/block_rivals.h"

#include <limits>

#include "base/checked_math.h"

namespace strata::rivals {
namespace {

bool is_candidate(const TraceCase& on, uint32_t block) {
  return block >= TraceCase::kSinkBlocks && block + TraceCase::kWindowBlocks < on.n_blocks();
}

}  // namespace

index::Rule rule_of(index::Budget budget) {
  return {.budget = budget,
          .n_sink_blocks = TraceCase::kSinkBlocks,
          .n_window_blocks = TraceCase::kWindowBlocks};
}

std::vector<Attended> BlockRival::attend(uint32_t stream, uint32_t step) {
  const BlockWeights weights = estimate(stream, step);
  const std::vector<uint32_t> chosen = chooser_
                                           .choose({.log_weights = weights.values,
                                                    .weight_stride = weights.stride,
                                                    .n_queries = weights.n_rows,
                                                    .n_blocks = on_.n_blocks(),
                                                    .n_positions = on_.pos(step) + 1})
                                           .blocks;
  Attended head;
  for (const uint32_t block : chosen)
    for (uint32_t row = 0; is_candidate(on_, block) && row < kBlockPositions; ++row)
      head.positions.push_back(block * kBlockPositions + row);
  std::vector<Attended> heads(on_.group(), head);
  estimate_rest(stream, step, weights, chosen, heads);
  return heads;
}

MethodRival::MethodRival(const TraceCase& on, const KernelTable& kernels, index::Method method,
                         index::Budget budget)
    : BlockRival(on, kernels, budget),
      source_(
          method,
          {.layout = on.trace().layout(), .n_streams = on.n_streams(), .n_blocks = on.n_blocks()},
          kernels),
      selector_(source_.make()),
      scratch_(HostMemory::reserve(selector_->scratch_floats(on.group()) * sizeof(float))),
      tail_scratch_(HostMemory::reserve(kTailScratchFloats * sizeof(float))) {
  selector_->open_blocks(on.n_blocks());
  for (uint32_t stream = 0; stream < on.n_streams(); ++stream)
    for (uint32_t block = 0; block < on.n_blocks(); ++block)
      selector_->observe(stream, block, on.trace().block(stream, block));
}

IndexBytes MethodRival::bytes() const {
  const double n = on_.n_candidates();
  const double kept = static_cast<double>(selector_->held_bytes(on_.n_blocks())) / n;
  if (n_estimates_ == 0) return {.kept = kept, .read = kept};
  return {.kept = kept, .read = static_cast<double>(read_bytes_) / n_estimates_ / n};
}

BlockWeights MethodRival::estimate(uint32_t stream, uint32_t step) {
  const std::vector<float> q = on_.query(stream, step);
  BlockWeights weights{.n_rows = on_.group(), .stride = round_up(on_.n_blocks(), kExtentBlocks)};
  weights.values.resize(weights.n_rows * weights.stride);
  selector_->estimate({.stream = stream,
                       .q = q.data(),
                       .n_queries = on_.group(),
                       .end_block = on_.n_blocks(),
                       .scratch = reinterpret_cast<float*>(scratch_.data()),
                       .log_weights = weights.values.data(),
                       .weight_stride = weights.stride});
  read_bytes_ += selector_->estimate_bytes(on_.n_blocks(), q.data(), on_.group());
  ++n_estimates_;
  return weights;
}

/// Sums of mean values by the estimated weights of the blocks that are kept, one per query.
std::vector<Partial> MethodRival::tail_of(uint32_t stream, const BlockWeights& weights,
                                          const std::vector<bool>& is_kept) {
  std::vector<float> kept = weights.values;
  for (uint32_t head = 0; head < on_.group(); ++head)
    for (uint32_t block = 0; block < weights.stride; ++block)
      if (block >= on_.n_blocks() || !is_kept[block])
        kept[head * weights.stride + block] = -std::numeric_limits<float>::infinity();
  const uint32_t n_dims = on_.head_dim();
  std::vector<float> o(uint64_t{on_.group()} * n_dims), m(on_.group()), l(on_.group());
  selector_->estimate_tail({.stream = stream,
                            .log_weights = kept.data(),
                            .weight_stride = weights.stride,
                            .n_queries = on_.group(),
                            .end_block = on_.n_blocks(),
                            .scratch = reinterpret_cast<float*>(tail_scratch_.data()),
                            .o = o.data(),
                            .m = m.data(),
                            .l = l.data()});
  std::vector<Partial> tails;
  for (uint32_t head = 0; head < on_.group(); ++head)
    tails.push_back(
        {.o = std::vector<double>(o.begin() + head * n_dims, o.begin() + (head + 1) * n_dims),
         .m = m[head],
         .l = l[head]});
  return tails;
}

void MethodRival::estimate_rest(uint32_t stream, uint32_t step, const BlockWeights& weights,
                                const std::vector<uint32_t>& chosen, std::vector<Attended>& heads) {
  if (!selector_->has_tail() || chosen.size() == on_.n_blocks()) return;
  std::vector<bool> is_left_out(on_.n_blocks(), true), is_retrieved(on_.n_blocks(), false);
  for (const uint32_t block : chosen) {
    is_left_out[block] = false;
    is_retrieved[block] = is_candidate(on_, block);
  }
  std::vector<Partial> left_out = tail_of(stream, weights, is_left_out);
  const std::vector<Partial> retrieved = tail_of(stream, weights, is_retrieved);
  for (uint32_t head = 0; head < heads.size(); ++head) {
    const Partial found = on_.attend(stream, step, head, heads[head].positions);
    Partial& tail = left_out[head];
    if (found.l > 0 && retrieved[head].l > 0)
      for (uint32_t d = 0; d < on_.head_dim(); ++d)
        tail.o[d] += double{kTailFoundShare} * tail.l *
                     (found.o[d] / found.l - retrieved[head].o[d] / retrieved[head].l);
    heads[head].estimated = std::move(tail);
  }
}

}  // namespace strata::rivals
