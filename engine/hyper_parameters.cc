#include "engine/hyper_parameters.h"

#include <fmt/core.h>

#include <array>
#include <cmath>

#include "base/check.h"
#include "base/error.h"
#include "engine/gguf/gguf_head.h"

namespace strata::engine {
namespace {

// Positions are 32 bit; half of them leaves room for arithmetic.
constexpr double kPositions = 1 << 30;

struct Row {
  HyperParameter parameter;
  std::string_view suffix;
  double min, max;
  bool is_required;
};

// Ranges hold every published model several times over and keep all products below 2^63.
constexpr std::array kRows = {
    Row{HyperParameter::kLayers, "block_count", 1, 1024, true},
    Row{HyperParameter::kContext, "context_length", 1, kPositions, true},
    Row{HyperParameter::kModelDim, "embedding_length", 8, 1 << 17, true},
    Row{HyperParameter::kFeedForward, "feed_forward_length", 1, 1 << 20, true},
    Row{HyperParameter::kHeads, "attention.head_count", 1, 1024, true},
    Row{HyperParameter::kKvHeads, "attention.head_count_kv", 1, 1024, false},
    Row{HyperParameter::kKeyLength, "attention.key_length", 8, 512, false},
    Row{HyperParameter::kValueLength, "attention.value_length", 8, 512, false},
    Row{HyperParameter::kNormEpsilon, "attention.layer_norm_rms_epsilon", 1e-12, 1e-1, true},
    Row{HyperParameter::kWindow, "attention.sliding_window", 0, kPositions, false},
    Row{HyperParameter::kWindowPattern, "attention.sliding_window_pattern", 0, 1024, false},
    Row{HyperParameter::kRopeDims, "rope.dimension_count", 2, 512, false},
    Row{HyperParameter::kRopeBase, "rope.freq_base", 1.1, 1e12, false},
    Row{HyperParameter::kRopeBaseWindow, "rope.freq_base_swa", 1.1, 1e12, false},
    Row{HyperParameter::kRopeFactor, "rope.scaling.factor", 1e-3, 65536, false},
    Row{HyperParameter::kRopeFactorOld, "rope.scale_linear", 1e-3, 65536, false},
    Row{HyperParameter::kRopeContext, "rope.scaling.original_context_length", 1, kPositions, false},
    Row{HyperParameter::kRopeAttnFactor, "rope.scaling.attn_factor", 1e-3, 1e3, false},
    Row{HyperParameter::kYarnExtFactor, "rope.scaling.yarn_ext_factor", 0, 1, false},
    Row{HyperParameter::kYarnBetaFast, "rope.scaling.yarn_beta_fast", 1e-3, 1e6, false},
    Row{HyperParameter::kYarnBetaSlow, "rope.scaling.yarn_beta_slow", 1e-3, 1e6, false},
};

const Row& row_of(HyperParameter parameter) {
  const Row& row = kRows[static_cast<size_t>(parameter)];
  STRATA_CHECK(row.parameter == parameter, "row %zu of the table is out of order",
               static_cast<size_t>(parameter));
  return row;
}

// Keys whose presence changes the arithmetic of an architecture in a way Strata does not compute.
// `harmless` is the value that means "off" beside 0.
struct Refused {
  std::string_view suffix;
  std::string_view feature;
  double harmless;
};
constexpr std::array kRefused = {
    Refused{"expert_count", "mixture of experts", 0},
    Refused{"attn_logit_softcapping", "softcapping of attention scores", 0},
    Refused{"final_logit_softcapping", "softcapping of logits", 0},
    Refused{"logit_scale", "scaled logits", 1},
    Refused{"residual_scale", "scaled residuals", 1},
    Refused{"embedding_scale", "a scale of embeddings in the file", 1},
    Refused{"attention.scale", "a scale of attention scores in the file", 0},
    Refused{"attention.clamp_kqv", "clamped q, k and v", 0},
    Refused{"attention.max_alibi_bias", "ALiBi", 0},
    Refused{"attention.temperature_scale", "attention temperature by position", 0},
    Refused{"attention.shared_kv_layers", "layers that share KV", 0},
    Refused{"attention.q_lora_rank", "latent attention", 0},
    Refused{"attention.kv_lora_rank", "latent attention", 0},
    Refused{"rope.dimension_sections", "M-RoPE", 0},
    Refused{"rope.scaling.alpha", "NTK-alpha RoPE scaling", 0},
    Refused{"rope.scaling.yarn_log_multiplier", "YaRN with a log multiplier", 0},
    Refused{"nextn_predict_layers", "multi-token prediction layers", 0},
    Refused{"pooling_type", "pooled embeddings instead of logits", 0},
};

constexpr std::string_view kConvert = "convert the model again";

}  // namespace

double HyperParameters::min(HyperParameter parameter) { return row_of(parameter).min; }
double HyperParameters::max(HyperParameter parameter) { return row_of(parameter).max; }

std::string HyperParameters::key(HyperParameter parameter) const {
  return fmt::format("{}.{}", prefix_, row_of(parameter).suffix);
}

std::string HyperParameters::where(HyperParameter parameter) const {
  return fmt::format("{}: key {}", file_.path(), key(parameter));
}

void HyperParameters::check_range(HyperParameter parameter, double value) const {
  const Row& row = row_of(parameter);
  if (value >= row.min && value <= row.max) return;
  throw Error(ErrorCode::kBadFile,
              fmt::format("wanted {} to {}, found {}", row.min, row.max, value), where(parameter),
              std::string(kConvert));
}

void HyperParameters::fail_absent(HyperParameter parameter) const {
  const Row& row = row_of(parameter);
  throw Error(ErrorCode::kBadFile,
              fmt::format("wanted a number from {} to {}, found no such key", row.min, row.max),
              where(parameter), std::string(kConvert));
}

std::optional<uint32_t> HyperParameters::find_uint(HyperParameter parameter) const {
  const auto value = file_.get_uint(key(parameter));
  if (!value) return std::nullopt;
  check_range(parameter, static_cast<double>(*value));
  return static_cast<uint32_t>(*value);
}

std::optional<double> HyperParameters::find_real(HyperParameter parameter) const {
  const auto value = file_.get_real(key(parameter));
  if (value) check_range(parameter, *value);
  return value;
}

uint32_t HyperParameters::get_uint(HyperParameter parameter) const {
  const auto value = find_uint(parameter);
  if (!value) fail_absent(parameter);
  return *value;
}

double HyperParameters::get_real(HyperParameter parameter) const {
  const auto value = find_real(parameter);
  if (!value) fail_absent(parameter);
  return *value;
}

std::vector<uint32_t> HyperParameters::get_per_layer(HyperParameter parameter,
                                                     uint32_t n_layers) const {
  const auto values = file_.get_uints(key(parameter));
  if (!values) {
    if (row_of(parameter).is_required) fail_absent(parameter);
    return {};
  }
  if (file_.find(key(parameter))->is_array && values->size() != n_layers)
    throw Error(ErrorCode::kBadFile,
                fmt::format("wanted one value per layer ({}), found {}", n_layers, values->size()),
                where(parameter), std::string(kConvert));
  std::vector<uint32_t> per_layer(n_layers);
  for (uint32_t i = 0; i < n_layers; ++i) {
    const uint64_t value = (*values)[values->size() == 1 ? 0 : i];
    check_range(parameter, static_cast<double>(value));
    per_layer[i] = static_cast<uint32_t>(value);
  }
  return per_layer;
}

void refuse_unknown_features(const HyperParameters& parameters) {
  const GgufFile& file = parameters.file();
  const auto refuse = [&](const std::string& key, std::string_view feature) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("the model uses {}, which Strata does not compute for {}", feature,
                            parameters.prefix()),
                fmt::format("{}: key {}", file.path(), key), "use a model without it");
  };
  for (const Refused& row : kRefused) {
    const std::string key = fmt::format("{}.{}", parameters.prefix(), row.suffix);
    const auto values = file.get_reals(key);
    if (!values) continue;
    for (const double value : *values)
      if (value != 0.0 && value != row.harmless) refuse(key, row.feature);
  }
  const std::string causal = parameters.prefix() + ".attention.causal";
  if (!file.get_bool(causal).value_or(true)) refuse(causal, "attention to later positions");
  const auto kind = file.get_string("general.type");
  if (kind && *kind != "model")
    refuse("general.type", fmt::format("the file type \"{}\"", printable(*kind)));
}

}  // namespace strata::engine
