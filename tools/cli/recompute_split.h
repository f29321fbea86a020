// tools/cli/recompute_split.h - what making K and V anew from hidden states would gain while the
// rest of them is fetched, by the rates of a run. Why: it is off, and a user may see what for
// (docs/adr/0004-no-hidden-states.md). Source: KVPR (arXiv 2411.17089).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/kv_layout.h"
#include "base/model_shape.h"

namespace strata::cli {

/// A position of a full layer.
struct RecomputeCost {
  uint32_t d_model = 0, n_kv_heads = 0, head_dim = 0;
  double kv_bytes = 0;                                   // as the codecs have them
  double hidden_bytes() const { return 4.0 * d_model; }  // f32, which K and V have their bits from
  double flop() const { return 4.0 * d_model * n_kv_heads * head_dim; }
};
/// Of the first layer that keeps everything; else of the first.
RecomputeCost recompute_cost(const ModelShape& shape, KvCodec k_codec, KvCodec v_codec);

struct RecomputeRates {
  double gbytes_per_s = 0;  // of what K and V, or hidden states, are fetched from
  double gflop_per_s = 0;   // of the matrices that make K and V
  std::string from;         // "the disk"
  std::string made_by;      // "qkv"
};

/// ns of a position of a layer of which `share` is made anew: hidden states and the rest come one
/// after the other, and neither fetching nor computing waits for the other. Nothing else computes
/// meanwhile, so it is the least that it can take.
double split_ns(const RecomputeCost& cost, const RecomputeRates& rates, double share);

struct RecomputeSplit {
  double fetch_ns = 0;      // all of K and V
  double recompute_ns = 0;  // all of them, from hidden states that are there
  double share = 0;         // made anew, where split_ns() is least
  double gain = 0;          // of the time that fetching all takes
};
/// Both rates are known.
RecomputeSplit best_split(const RecomputeCost& cost, const RecomputeRates& rates);

/// One line of this arithmetic.
std::string recompute_line(const RecomputeCost& cost, const RecomputeRates& rates);
nlohmann::ordered_json recompute_json(const RecomputeCost& cost, const RecomputeRates& rates);

}  // namespace strata::cli
