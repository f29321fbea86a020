#include "engine/model_spec.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "engine/architectures.h"
#include "engine/gguf/gguf_head.h"
#include "engine/hyper_parameters.h"
#include "engine/model_tensors.h"
#include "engine/rope_spec.h"

namespace strata::engine {
namespace {

constexpr uint64_t kVocabMax = uint64_t{1}
                               << 24;  // token ids are int32; the largest known vocabulary has 2^18
constexpr uint32_t kHeadDimStep = 8;   // the kernels' grain
constexpr uint32_t kGemma27BLayers = 62;

const Architecture& architecture_of(const GgufFile& file) {
  const std::string where = file.path() + ": key general.architecture";
  const auto name = file.get_string("general.architecture");
  if (!name)
    throw Error(ErrorCode::kBadFile, "wanted the name of an architecture, found no such key", where,
                "give a language model's GGUF file");
  const Architecture* row = find_architecture(*name);
  if (!row)
    throw Error(ErrorCode::kUnsupported,
                fmt::format("wanted an architecture of {}, found \"{}\"",
                            fmt::join(known_architectures(), ", "), printable(*name)),
                where, "use a model of one of these architectures");
  return *row;
}

uint32_t read_vocab_size(const GgufFile& file) {
  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  if (!embedding)
    throw Error(ErrorCode::kBadFile, "missing tensors: token_embd.weight", file.path(),
                "give the whole model: this file holds a vocabulary only, or was cut");
  const std::string where =
      fmt::format("{}: tensor token_embd.weight, offset {}", file.path(), embedding->file_offset);
  if (embedding->n_rows() > kVocabMax)
    throw Error(ErrorCode::kBadFile,
                fmt::format("wanted at most {} rows, found {}", kVocabMax, embedding->n_rows()),
                where, "convert the model again");
  const GgufValue* tokens = file.find("tokenizer.ggml.tokens");
  if (tokens && tokens->size() > embedding->n_rows())
    throw Error(ErrorCode::kBadFile,
                fmt::format("wanted a row for each of the tokenizer's {} tokens, found {} rows",
                            tokens->size(), embedding->n_rows()),
                where, "convert the model again: its vocabulary and its embedding disagree");
  return static_cast<uint32_t>(embedding->n_rows());
}

uint32_t read_head_dim(const HyperParameters& parameters, uint32_t d_model, uint32_t n_heads) {
  const auto key_length = parameters.find_uint(HyperParameter::kKeyLength);
  const uint32_t head_dim = key_length.value_or(d_model / n_heads);
  const uint32_t value_length =
      parameters.find_uint(HyperParameter::kValueLength).value_or(d_model / n_heads);
  const std::string where = parameters.where(HyperParameter::kKeyLength);
  if (!key_length && d_model % n_heads != 0)
    throw Error(ErrorCode::kBadFile,
                fmt::format("wanted the key, or heads ({}) that divide embedding_length ({})",
                            n_heads, d_model),
                where, "convert the model again");
  const auto [min, max] = std::pair(HyperParameters::min(HyperParameter::kKeyLength),
                                    HyperParameters::max(HyperParameter::kKeyLength));
  if (head_dim < min || head_dim > max || head_dim % kHeadDimStep != 0)
    throw Error(ErrorCode::kUnsupported,
                fmt::format("wanted a head_dim that is a multiple of {} from {} to {}, found {}",
                            kHeadDimStep, min, max, head_dim),
                where, "use another model");
  if (value_length != head_dim)
    throw Error(ErrorCode::kUnsupported,
                fmt::format("wanted heads of k and v of one length, found {} and {}", head_dim,
                            value_length),
                parameters.where(HyperParameter::kValueLength), "use another model");
  return head_dim;
}

/// Which layers are windowed: [n_layers], all false where the architecture or the file has no
/// windows.
std::vector<bool> read_window_pattern(const HyperParameters& parameters, const Architecture& row,
                                      uint32_t n_layers, uint32_t window) {
  std::vector<bool> is_windowed(n_layers, false);
  if (window == 0 || row.full_every == 0) return is_windowed;
  const std::string key = parameters.key(HyperParameter::kWindowPattern);
  const GgufValue* pattern = parameters.file().find(key);
  if (pattern && pattern->is_array) {
    const auto* flags = std::get_if<GgufValue::Integers>(&pattern->values);
    if (!flags || flags->size() != n_layers)
      throw Error(ErrorCode::kBadFile,
                  fmt::format("wanted one flag per layer ({}), found {} values of {}", n_layers,
                              pattern->size(), gguf_type_name(pattern->type)),
                  parameters.where(HyperParameter::kWindowPattern), "convert the model again");
    for (uint32_t i = 0; i < n_layers; ++i) is_windowed[i] = (*flags)[i] != 0;
    return is_windowed;
  }
  // A period of 0 means that no layer is full.
  const uint32_t period =
      parameters.find_uint(HyperParameter::kWindowPattern).value_or(row.full_every);
  for (uint32_t i = 0; i < n_layers; ++i) is_windowed[i] = period == 0 || (i + 1) % period != 0;
  return is_windowed;
}

uint32_t read_window(const HyperParameters& parameters, const Architecture& row,
                     uint32_t n_ctx_train) {
  const uint32_t window = parameters.find_uint(HyperParameter::kWindow).value_or(0);
  if (row.full_every == 0 && window > 0 && window < n_ctx_train)
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format(
            "the model attends a sliding window of {}, which Strata does not compute for {}",
            window, row.name),
        parameters.where(HyperParameter::kWindow), "use a model without it");
  return row.full_every == 0 ? 0 : window;
}

std::vector<LayerShape> read_layers(const HyperParameters& parameters, const Architecture& row,
                                    uint32_t n_layers, uint32_t n_ctx_train) {
  const auto n_heads = parameters.get_per_layer(HyperParameter::kHeads, n_layers);
  const auto d_ff = parameters.get_per_layer(HyperParameter::kFeedForward, n_layers);
  auto n_kv_heads = parameters.get_per_layer(HyperParameter::kKvHeads, n_layers);
  if (n_kv_heads.empty()) n_kv_heads = n_heads;
  const uint32_t window = read_window(parameters, row, n_ctx_train);
  const auto is_windowed = read_window_pattern(parameters, row, n_layers, window);
  std::vector<LayerShape> layers(n_layers);
  for (uint32_t i = 0; i < n_layers; ++i) {
    LayerShape& layer = layers[i];
    layer.n_heads = n_heads[i];
    layer.n_kv_heads = n_kv_heads[i];
    layer.d_ff = d_ff[i];
    if (n_heads[i] % n_kv_heads[i] != 0)
      throw Error(
          ErrorCode::kBadFile,
          fmt::format("wanted KV heads that divide the {} query heads of layer {}, found {}",
                      n_heads[i], i, n_kv_heads[i]),
          parameters.where(HyperParameter::kKvHeads), "convert the model again");
    if (n_heads[i] / n_kv_heads[i] > kMaxTileQueries)
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("wanted at most {} query heads per KV head, found {} in layer {}",
                              kMaxTileQueries, n_heads[i] / n_kv_heads[i], i),
                  parameters.where(HyperParameter::kKvHeads), "use another model");
    layer.has_rope = row.unrotated_every == 0 || (i + 1) % row.unrotated_every != 0;
    if (!is_windowed[i]) continue;
    layer.kind = LayerKind::kWindow;
    layer.window = window;
    layer.rope_set = 1;
  }
  return layers;
}

/// Windowed layers with heads or rotations of their own length would need a second head_dim, which
/// no row has.
void check_window_lengths(const HyperParameters& parameters, const ModelSpec& spec) {
  const uint32_t n_rot = spec.rope_sets.front().n_rot;
  for (const auto& [suffix, wanted] : {std::pair("attention.key_length_swa", spec.shape.head_dim),
                                       std::pair("attention.value_length_swa", spec.shape.head_dim),
                                       std::pair("rope.dimension_count_swa", n_rot)}) {
    const std::string key = parameters.prefix() + "." + suffix;
    const uint64_t found = parameters.file().get_uint(key).value_or(wanted);
    if (found != wanted)
      throw Error(
          ErrorCode::kUnsupported,
          fmt::format("wanted windowed layers of the same length as full ones ({}), found {}",
                      wanted, found),
          fmt::format("{}: key {}", parameters.file().path(), key), "use another model");
  }
}

float attention_scale_of(const HyperParameters& parameters, const Architecture& row,
                         const ModelShape& shape) {
  const uint32_t n_heads = shape.layers.front().n_heads;
  const bool is_27b =
      row.attention_scale == AttentionScale::kGemma3 && shape.n_layers == kGemma27BLayers;
  if (is_27b && shape.d_model % n_heads != 0)
    throw Error(ErrorCode::kBadFile,
                fmt::format("wanted heads that divide embedding_length ({}) in a model of {} "
                            "layers, found {}",
                            shape.d_model, kGemma27BLayers, n_heads),
                parameters.where(HyperParameter::kHeads), "convert the model again");
  const uint32_t length = is_27b ? shape.d_model / n_heads : shape.head_dim;
  return 1.0f / std::sqrt(static_cast<float>(length));
}

}  // namespace

ModelSpec read_model_spec(const GgufFile& file, const RopeOverrides& overrides) {
  const Architecture& row = architecture_of(file);
  const HyperParameters parameters(file, row.name);
  refuse_unknown_features(parameters);

  ModelSpec spec;
  ModelShape& shape = spec.shape;
  shape.architecture = row.name;
  shape.n_layers = parameters.get_uint(HyperParameter::kLayers);
  shape.d_model = parameters.get_uint(HyperParameter::kModelDim);
  shape.n_ctx_train = parameters.get_uint(HyperParameter::kContext);
  shape.vocab_size = read_vocab_size(file);
  shape.layers = read_layers(parameters, row, shape.n_layers, shape.n_ctx_train);
  shape.head_dim = read_head_dim(parameters, shape.d_model, shape.layers.front().n_heads);

  spec.name = file.get_string("general.name").value_or("");
  spec.rope_pairing = row.rope_pairing;
  spec.norm_eps = static_cast<float>(parameters.get_real(HyperParameter::kNormEpsilon));
  spec.attention_scale = attention_scale_of(parameters, row, shape);
  if (row.has_scaled_embedding) spec.embedding_scale = std::sqrt(static_cast<float>(shape.d_model));
  spec.activation = row.activation;
  spec.has_qkv_bias = row.has_qkv_bias;
  spec.has_qk_norm = row.has_qk_norm;
  spec.has_post_norms = row.has_post_norms;
  spec.has_output_tensor = file.find_tensor("output.weight") != nullptr;

  const bool has_windows = std::ranges::any_of(
      shape.layers, [](const LayerShape& layer) { return layer.kind == LayerKind::kWindow; });
  spec.rope_sets =
      read_rope_sets(parameters, row, shape.head_dim, shape.n_ctx_train, has_windows, overrides);
  check_window_lengths(parameters, spec);
  check_model_tensors(file, row, spec);

  RopeSpec& full = spec.rope_sets.front();
  const double n_ctx_scaled = std::floor(full.n_ctx_original * full.factor);
  if (overrides.factor != 0 && n_ctx_scaled > shape.n_ctx_train)
    shape.n_ctx_train = static_cast<uint32_t>(
        std::min(n_ctx_scaled, HyperParameters::max(HyperParameter::kContext)));
  read_rope_factors(file, row, overrides.n_ctx != 0 ? overrides.n_ctx : shape.n_ctx_train, full);
  return spec;
}

uint64_t kv_bytes_per_token(const ModelShape& shape) {
  constexpr uint64_t kF16Bytes = 2;
  uint64_t bytes = 0;
  for (const LayerShape& layer : shape.layers)
    bytes += uint64_t{layer.n_kv_heads} * shape.head_dim * 2 * kF16Bytes;
  return bytes;
}

}  // namespace strata::engine
