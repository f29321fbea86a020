#include "engine/rope_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"

namespace strata::engine {
namespace {

/// The (fractional) pair index that turns `beta` times within n_ctx_original positions.
double pair_of_turns(const RopeSpec& spec, double beta) {
  const double turns = static_cast<double>(spec.n_ctx_original) / (2.0 * std::numbers::pi * beta);
  return spec.n_rot * std::log(turns) / (2.0 * std::log(spec.freq_base));
}

/// What a frequency is multiplied by: 1 where it turns often enough to extrapolate, 1 / factor
/// where it must interpolate.
std::vector<double> yarn_parts(const RopeSpec& spec) {
  const double low = std::max(0.0, std::floor(pair_of_turns(spec, spec.yarn_beta_fast)));
  const double high =
      std::min(spec.n_rot - 1.0, std::ceil(pair_of_turns(spec, spec.yarn_beta_slow)));
  std::vector<double> parts(spec.n_rot / 2);
  for (size_t i = 0; i < parts.size(); ++i) {
    const double along = (static_cast<double>(i) - low) / std::max(high - low, 0.001);
    const double extrapolated = (1.0 - std::clamp(along, 0.0, 1.0)) * spec.yarn_ext_factor;
    parts[i] = (1.0 - extrapolated) / spec.factor + extrapolated;
  }
  return parts;
}

}  // namespace

RopeTable::RopeTable(const RopeSpec& spec)
    : multipliers_(spec.n_rot / 2), magnitude_(spec.yarn_attn_factor) {
  STRATA_CHECK(spec.n_rot % 2 == 0 && spec.n_rot > 0, "n_rot=%u", spec.n_rot);
  STRATA_CHECK(spec.factors.empty() || spec.factors.size() == multipliers_.size(),
               "%zu factors for n_rot=%u", spec.factors.size(), spec.n_rot);
  STRATA_CHECK(spec.freq_base > 1.0 && spec.factor > 0.0, "freq_base=%g factor=%g", spec.freq_base,
               spec.factor);
  for (size_t i = 0; i < multipliers_.size(); ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / spec.n_rot;
    multipliers_[i] = std::pow(spec.freq_base, exponent) /
                      (spec.factors.empty() ? 1.0 : static_cast<double>(spec.factors[i]));
    if (spec.scaling == RopeScaling::kLinear) multipliers_[i] /= spec.factor;
  }
  if (spec.scaling != RopeScaling::kYarn) return;
  STRATA_CHECK(spec.n_ctx_original > 0 && spec.yarn_beta_fast > 0 && spec.yarn_beta_slow > 0,
               "n_ctx_original=%u beta %g %g", spec.n_ctx_original, spec.yarn_beta_fast,
               spec.yarn_beta_slow);
  const std::vector<double> parts = yarn_parts(spec);
  for (size_t i = 0; i < multipliers_.size(); ++i) multipliers_[i] *= parts[i];
  if (spec.yarn_ext_factor != 0.0 && spec.factor > 1.0)
    magnitude_ *= 1.0 + 0.1 * std::log(spec.factor);
}

void RopeTable::angles(std::span<const uint32_t> positions, std::span<float> cos_sin) const {
  STRATA_CHECK(cos_sin.size() == positions.size() * n_rot(),
               "%zu floats for %zu positions of n_rot=%u", cos_sin.size(), positions.size(),
               n_rot());
  float* out = cos_sin.data();
  for (const uint32_t position : positions) {
    for (const double multiplier : multipliers_) {
      const double theta =
          static_cast<double>(position) * multiplier;  // the library reduces it exactly
      *out++ = static_cast<float>(magnitude_ * std::cos(theta));
      *out++ = static_cast<float>(magnitude_ * std::sin(theta));
    }
  }
}

}  // namespace strata::engine
