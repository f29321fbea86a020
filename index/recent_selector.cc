#include "index/recent_selector.h"

namespace strata::index {

void RecentSelector::estimate(const EstimateArgs& args) const {
  for (uint32_t query = 0; query < args.n_queries; ++query) {
    float* weights = args.log_weights + query * args.weight_stride;
    for (uint32_t block = args.first_block; block < args.end_block; ++block)
      weights[block] = static_cast<float>(block) / static_cast<float>(n_blocks_);
  }
}

}  // namespace strata::index
