// index/rotated_queries.h - the queries of an estimate as methods of rotated keys take them.
#pragma once

#include "base/kernel_table.h"
#include "index/selector.h"

namespace strata::index {

/// Rotated and rounded (RabitqQueryArgs), in the scratch of the estimate.
struct RotatedQueries {
  static uint64_t scratch_floats(uint32_t head_dim, uint32_t n_queries) {
    // Queries side by side; each query's codes, scale and sum.
    return uint64_t{head_dim} * kBlockPositions + n_queries * (code_floats(head_dim) + 2);
  }
  RotatedQueries(const KernelTable& kernels, uint32_t head_dim, const EstimateArgs& args) {
    float* code_at = args.scratch + uint64_t{head_dim} * kBlockPositions;
    scales = code_at + args.n_queries * code_floats(head_dim);
    codes = reinterpret_cast<int8_t*>(code_at);
    sums = reinterpret_cast<int32_t*>(scales + args.n_queries);
    kernels.index.rabitq_query({.q = args.q,
                                .n_queries = args.n_queries,
                                .head_dim = head_dim,
                                .columns = args.scratch,
                                .codes = codes,
                                .scales = scales,
                                .sums = sums});
  }

  int8_t* codes;
  float* scales;
  int32_t* sums;

 private:
  static uint64_t code_floats(uint32_t head_dim) {
    return uint64_t{rabitq_groups(head_dim)} * kRabitqGroup / sizeof(float);
  }
};

}  // namespace strata::index
