// tools/rivals/representatives.h - keys that stand for their neighbours because the queries that
// followed attended them.
// Source: InfLLM (arXiv 2402.04617, section 3.2): the score of a key is its mean product with the
//   next l_L queries, the keys of a block with the largest scores represent it, and a block's
//   relevance is the sum of its representatives' products with a query; its code keeps their mean,
//   one vector for each head. EM-LLM (arXiv 2407.09450) takes them over for its events.
// What differs: keys are as attention here uses them, RoPE applied; InfLLM takes it off, since it
//   moves what it retrieves next to the query, so means of keys fare worse here. A KV head has one
//   set of representatives, by the mean of its queries, where its code has one for each query head.
#pragma once

#include "tools/rivals/block_rivals.h"

namespace strata::rivals {

struct RepresentativeRule {
  uint32_t n_keys = 4;             // that represent a span of keys
  uint32_t n_following = 4096;     // queries whose products are averaged, at most
  uint32_t block_positions = 128;  // that share representatives, a multiple of 32
  bool is_of_layer = false;        // as in the paper: a choice for all KV heads of a layer
};

/// Mean product of each key with the queries that follow it, of those that a trace has up to the
/// first judged step; queries of a group are averaged, too. [n_blocks * 32]
/// Errors: kUnsupported where the trace lacks the queries that follow the first candidate.
std::vector<float> local_scores(const TraceCase& on, uint32_t stream, uint32_t n_following);

/// Mean of the n_keys keys of [first, end) with the largest scores; of equals the earlier ones.
std::vector<float> representative(const TraceCase& on, uint32_t stream, uint32_t first,
                                  uint32_t end, std::span<const float> scores, uint32_t n_keys);

class RepresentativeRival : public BlockRival {
 public:
  /// Errors: those of local_scores().
  RepresentativeRival(const TraceCase& on, const KernelTable& kernels, index::Budget budget,
                      const RepresentativeRule& rule);
  IndexBytes bytes() const override {
    const double n_spans = static_cast<double>(of_[0].size());
    const double bytes = n_spans * 2 * on_.head_dim() / on_.n_candidates();
    return {.kept = bytes, .read = bytes};
  }

 protected:
  BlockWeights estimate(uint32_t stream, uint32_t step) override;

 private:
  RepresentativeRule rule_;
  std::vector<std::vector<std::vector<float>>> of_;  // per stream and span [head_dim]
};

}  // namespace strata::rivals
