// engine/rope_table.h - the cosines and sines a position is rotated by, from a RopeSpec.
// Why: angles in double. An f32 angle at position 1,000,000 errs by 0.06 rad, which moves
// attention; a double errs by 1e-10. Source: RoFormer (arXiv 2104.09864) eq. 34; YaRN (arXiv
// 2309.00071) section 3.2 (NTK by parts) and 3.4 (temperature).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/model_spec.h"

namespace strata::engine {

/// Per-frequency multipliers of one RopeSpec, computed once. Immutable.
///
///   f_i = freq_base^(-2i / n_rot) / factors[i]                        (RoFormer; no factors: 1)
///   none, longrope   theta_i(p) = p f_i
///   linear           theta_i(p) = p f_i / factor
///   yarn             theta_i(p) = p f_i ((1 - g_i) / factor + g_i),  g_i = ext_factor ramp_i
///     ramp_i  = 1 - clamp((i - low) / max(high - low, 0.001), 0, 1)   (YaRN section 3.2, on pairs)
///     low     = max(0, floor(c(beta_fast)))
///     high    = min(n_rot - 1, ceil(c(beta_slow)))
///     c(beta) = n_rot ln(n_ctx_original / (2 pi beta)) / (2 ln freq_base)
///   magnitude = attn_factor; times 1 + 0.1 ln(factor) for yarn with ext_factor != 0 and factor > 1
///               (YaRN section 3.4)
class RopeTable {
 public:
  explicit RopeTable(const RopeSpec& spec);

  uint32_t n_rot() const { return static_cast<uint32_t>(multipliers_.size() * 2); }
  double magnitude() const { return magnitude_; }

  /// cos_sin [positions.size(), n_rot / 2] pairs (magnitude cos theta, magnitude sin theta),
  /// rounded to f32 once. Cost: n_rot / 2 double sines and cosines per position.
  void angles(std::span<const uint32_t> positions, std::span<float> cos_sin) const;

 private:
  std::vector<double> multipliers_;  // [n_rot / 2]: theta_i(p) = p multipliers_[i]
  double magnitude_ = 1.0;
};

}  // namespace strata::engine
