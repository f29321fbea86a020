#include "tools/cli/recompute_split.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace strata::cli {

RecomputeCost recompute_cost(const ModelShape& shape, KvCodec k_codec, KvCodec v_codec) {
  const auto full = std::ranges::find(shape.layers, LayerKind::kFull, &LayerShape::kind);
  const LayerShape& layer = full == shape.layers.end() ? shape.layers.front() : *full;
  const uint64_t head_bytes = kv_position_bytes(KvLayout::make(k_codec, v_codec, shape.head_dim));
  return {.d_model = shape.d_model,
          .n_kv_heads = layer.n_kv_heads,
          .head_dim = shape.head_dim,
          .kv_bytes = static_cast<double>(head_bytes * layer.n_kv_heads)};
}

double split_ns(const RecomputeCost& cost, const RecomputeRates& rates, double share) {
  const double fetched = share * cost.hidden_bytes() + (1 - share) * cost.kv_bytes;
  return std::max(fetched / rates.gbytes_per_s, share * cost.flop() / rates.gflop_per_s);
}

RecomputeSplit best_split(const RecomputeCost& cost, const RecomputeRates& rates) {
  RecomputeSplit split{.fetch_ns = cost.kv_bytes / rates.gbytes_per_s,
                       .recompute_ns = cost.flop() / rates.gflop_per_s};
  // What fetching is spared of each position that is made anew: the two lines cross where neither
  // waits, and where nothing is spared they need not.
  const double spared_ns = (cost.kv_bytes - cost.hidden_bytes()) / rates.gbytes_per_s;
  if (spared_ns <= 0) return split;
  split.share = std::min(1.0, split.fetch_ns / (split.recompute_ns + spared_ns));
  split.gain = 1 - split_ns(cost, rates, split.share) / split.fetch_ns;
  return split;
}

std::string recompute_line(const RecomputeCost& cost, const RecomputeRates& rates) {
  std::string line = fmt::format(
      "K and V from hidden states: {:.0f} B a position and layer (4 * d_model {}, f32) against "
      "{:.0f} B of K and V (n_kv_heads {} * head_dim {})",
      cost.hidden_bytes(), cost.d_model, cost.kv_bytes, cost.n_kv_heads, cost.head_dim);
  if (!(rates.gbytes_per_s > 0 && rates.gflop_per_s > 0)) return line + "; a rate is not known\n";
  const RecomputeSplit split = best_split(cost, rates);
  line += fmt::format(
      "; K and V take {:.1f} ns at {:.2f} GB/s of {}, making them {:.1f} ns at {:.0f} GFLOP/s of "
      "{}: ",
      split.fetch_ns, rates.gbytes_per_s, rates.from, split.recompute_ns, rates.gflop_per_s,
      rates.made_by);
  if (split.share == 0) return line + "best is to make none: hidden states are no fewer bytes\n";
  return line + fmt::format("best is to make {:.1f} %, which gains {:.1f} % at most\n",
                            100 * split.share, 100 * split.gain);
}

nlohmann::ordered_json recompute_json(const RecomputeCost& cost, const RecomputeRates& rates) {
  nlohmann::ordered_json json = {{"hidden_bytes_per_position", cost.hidden_bytes()},
                                 {"kv_bytes_per_position", cost.kv_bytes},
                                 {"flop", cost.flop()},
                                 {"gbytes_per_s", rates.gbytes_per_s},
                                 {"gflop_per_s", rates.gflop_per_s}};
  if (!(rates.gbytes_per_s > 0 && rates.gflop_per_s > 0)) return json;
  const RecomputeSplit split = best_split(cost, rates);
  json.update({{"fetch_ns", split.fetch_ns},
               {"recompute_ns", split.recompute_ns},
               {"best_share", split.share},
               {"split_gain", split.gain}});
  return json;
}

}  // namespace strata::cli
