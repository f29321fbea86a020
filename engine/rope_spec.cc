#include "engine/rope_spec.h"

#include <fmt/core.h>

#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"
#include "engine/gguf/dequantise.h"
#include "engine/gguf/gguf_head.h"

namespace strata::engine {
namespace {

constexpr const char* kScalingType = ".rope.scaling.type";

/// A value from an option, held to the range the file's key has.
double override_value(const char* option, HyperParameter parameter, double value) {
  const double min = HyperParameters::min(parameter);
  const double max = HyperParameters::max(parameter);
  if (value >= min && value <= max) return value;
  throw Error(ErrorCode::kUsage, fmt::format("wanted {} to {}, found {}", min, max, value), option,
              "leave the option out to use what the file says");
}

RopeScaling scaling_of(std::string_view text, ErrorCode code, const std::string& where) {
  if (text == "none") return RopeScaling::kNone;
  if (text == "linear") return RopeScaling::kLinear;
  if (text == "yarn") return RopeScaling::kYarn;
  if (text == "longrope" && code != ErrorCode::kUsage) return RopeScaling::kLongRope;
  throw Error(code,
              fmt::format("wanted a RoPE scaling of none, linear, yarn{}, found \"{}\"",
                          code == ErrorCode::kUsage ? "" : " or longrope", printable(text)),
              where, "use a model with one of these, or name one with --rope-scaling");
}

/// The file's factor. Converters write 0 for "none"; any other value is held to its range, because
/// positions are divided by it.
double read_factor(const HyperParameters& parameters) {
  for (const auto parameter : {HyperParameter::kRopeFactor, HyperParameter::kRopeFactorOld}) {
    const auto raw = parameters.file().get_real(parameters.key(parameter));
    if (!raw) continue;
    return *raw == 0.0 ? 1.0 : *parameters.find_real(parameter);
  }
  return 1.0;
}

/// The scaling that --rope-scaling names, or else the file's. Only what is in force is judged: the
/// option is the way out for a file whose own scaling is not known.
RopeScaling read_scaling(const HyperParameters& parameters, const Architecture& architecture,
                         const RopeOverrides& overrides, std::string_view type, double factor) {
  if (!overrides.scaling.empty())
    return scaling_of(overrides.scaling, ErrorCode::kUsage, "--rope-scaling");
  const std::string where =
      fmt::format("{}: key {}", parameters.file().path(), parameters.prefix() + kScalingType);
  const RopeScaling scaling = scaling_of(type, ErrorCode::kUnsupported, where);
  if (scaling != RopeScaling::kLongRope) return scaling;
  const char* remedy = "name a scaling with --rope-scaling";
  if (!architecture.has_rope_factors)
    throw Error(ErrorCode::kUnsupported,
                fmt::format("longrope has no meaning for {}", architecture.name), where, remedy);
  if (factor != 1.0)
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format("longrope with a factor of {}: sources disagree on what it divides", factor),
        where, remedy);
  return scaling;
}

void apply_overrides(const RopeOverrides& overrides, bool has_explicit_none, RopeSpec& set) {
  if (overrides.freq_base != 0)
    set.freq_base =
        override_value("--rope-freq-base", HyperParameter::kRopeBase, overrides.freq_base);
  if (overrides.factor != 0) {
    set.factor = override_value("--rope-factor", HyperParameter::kRopeFactor, overrides.factor);
    if (overrides.scaling.empty() && set.scaling == RopeScaling::kNone && !has_explicit_none)
      set.scaling = RopeScaling::kLinear;
  }
  if (overrides.n_ctx_original != 0)
    set.n_ctx_original = static_cast<uint32_t>(
        override_value("--yarn-orig-ctx", HyperParameter::kRopeContext, overrides.n_ctx_original));
  // Written so that NaN is taken as given, and refused by its range.
  if (!(overrides.yarn_ext_factor < 0))
    set.yarn_ext_factor = override_value("--yarn-ext-factor", HyperParameter::kYarnExtFactor,
                                         overrides.yarn_ext_factor);
  if (!(overrides.yarn_attn_factor < 0))
    set.yarn_attn_factor = override_value("--yarn-attn-factor", HyperParameter::kRopeAttnFactor,
                                          overrides.yarn_attn_factor);
  if (!(overrides.yarn_beta_fast < 0))
    set.yarn_beta_fast =
        override_value("--yarn-beta-fast", HyperParameter::kYarnBetaFast, overrides.yarn_beta_fast);
  if (!(overrides.yarn_beta_slow < 0))
    set.yarn_beta_slow =
        override_value("--yarn-beta-slow", HyperParameter::kYarnBetaSlow, overrides.yarn_beta_slow);
}

std::vector<float> read_factors(const GgufFile& file, const GgufTensor& tensor) {
  std::vector<std::byte> bytes(tensor.bytes);  // a few hundred elements: the shape was checked
  file.read(tensor, 0, bytes);
  std::vector<float> factors(tensor.shape[0]);
  dequantise(tensor.type, bytes, factors);
  for (size_t i = 0; i < factors.size(); ++i)
    if (!(factors[i] > 0) || !std::isfinite(factors[i]))
      throw Error(
          ErrorCode::kBadFile,
          fmt::format("wanted factors that are positive and finite, found {} at element {}",
                      factors[i], i),
          fmt::format("{}: tensor {}, offset {}", file.path(), tensor.name, tensor.file_offset),
          "convert the model again");
  return factors;
}

}  // namespace

std::vector<RopeSpec> read_rope_sets(const HyperParameters& parameters,
                                     const Architecture& architecture, uint32_t head_dim,
                                     uint32_t n_ctx_train, bool has_windows,
                                     const RopeOverrides& overrides) {
  const GgufFile& file = parameters.file();
  RopeSpec full;
  full.n_rot = parameters.find_uint(HyperParameter::kRopeDims).value_or(head_dim);
  if (full.n_rot > head_dim || full.n_rot % 2 != 0)
    throw Error(ErrorCode::kBadFile,
                fmt::format("wanted an even number of at most head_dim ({}), found {}", head_dim,
                            full.n_rot),
                parameters.where(HyperParameter::kRopeDims), "convert the model again");
  full.freq_base = parameters.find_real(HyperParameter::kRopeBase).value_or(10000.0);
  full.n_ctx_original = parameters.find_uint(HyperParameter::kRopeContext).value_or(n_ctx_train);
  full.yarn_attn_factor = parameters.find_real(HyperParameter::kRopeAttnFactor).value_or(1.0);
  full.yarn_ext_factor = parameters.find_real(HyperParameter::kYarnExtFactor).value_or(1.0);
  full.yarn_beta_fast = parameters.find_real(HyperParameter::kYarnBetaFast).value_or(32.0);
  full.yarn_beta_slow = parameters.find_real(HyperParameter::kYarnBetaSlow).value_or(1.0);

  full.factor = read_factor(parameters);
  const std::string_view type = file.get_string(parameters.prefix() + kScalingType)
                                    .value_or("linear");  // the default of the format's readers
  full.scaling = read_scaling(parameters, architecture, overrides, type, full.factor);
  apply_overrides(overrides, type == "none", full);
  if (full.scaling == RopeScaling::kLinear && full.factor == 1.0) full.scaling = RopeScaling::kNone;
  if (full.scaling == RopeScaling::kNone) {
    full.factor = 1.0;
    if (overrides.scaling == "none")
      full.yarn_attn_factor = 1.0;  // the temperature belongs to the scaling put aside
  }
  std::vector<RopeSpec> sets = {std::move(full)};
  if (has_windows) {
    RopeSpec window;
    window.n_rot = sets.front().n_rot;
    window.freq_base = parameters.find_real(HyperParameter::kRopeBaseWindow)
                           .value_or(architecture.window_freq_base);
    window.n_ctx_original = n_ctx_train;
    sets.push_back(std::move(window));
  }
  return sets;
}

void read_rope_factors(const GgufFile& file, const Architecture& architecture, uint64_t n_ctx,
                       RopeSpec& full) {
  if (!architecture.has_rope_factors) return;
  if (full.scaling != RopeScaling::kLongRope) {
    // Llama 3.1 and later were trained with these factors: they are part of the model whatever
    // scaling comes on top.
    if (const GgufTensor* tensor = file.find_tensor("rope_freqs.weight"))
      full.factors = read_factors(file, *tensor);
    return;
  }
  const char* name =
      n_ctx > full.n_ctx_original ? "rope_factors_long.weight" : "rope_factors_short.weight";
  const GgufTensor* tensor = file.find_tensor(name);
  if (!tensor)
    throw Error(ErrorCode::kBadFile,
                fmt::format("wanted the tensor {} of longrope scaling, found none", name),
                file.path(),
                "convert the model again, or name another scaling with --rope-scaling");
  full.factors = read_factors(file, *tensor);
}

}  // namespace strata::engine
