// engine/model_spec.h - what a model file says its network is: shape, switches and numbers, read
// once, range-checked once. Why: architectures are rows of a table (engine/architectures.cc), not
// copies of a forward function.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/kernel_table.h"
#include "base/model_shape.h"
#include "engine/gguf/gguf_file.h"

namespace strata::engine {

enum class RopeScaling : uint8_t { kNone, kLinear, kYarn, kLongRope };

/// One set of RoPE frequencies. Angles: pos * freq_base^(-2i / n_rot) / factors[i], scaled as
/// `scaling` says. Source: RoFormer (rotation); YaRN (arXiv 2309.00071) section 3.2-3.4 for kYarn.
struct RopeSpec {
  uint32_t n_rot = 0;  // dimensions rotated, even
  double freq_base = 10000.0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;  // context extension; positions are divided by it (linear) or interpolated
                        // by parts (YaRN)
  uint32_t n_ctx_original = 0;
  double yarn_ext_factor = 1.0;
  double yarn_attn_factor = 1.0;
  double yarn_beta_fast = 32.0;
  double yarn_beta_slow = 1.0;
  std::vector<float> factors;  // rope_freqs.weight or rope_factors_*: [n_rot / 2], empty = all 1
};

enum class Activation : uint8_t { kSilu, kGeluTanh };

struct ModelSpec {
  ModelShape shape;
  std::string name;  // general.name, may be empty
  RopePairing rope_pairing = RopePairing::kAdjacent;
  std::vector<RopeSpec> rope_sets;  // LayerShape::rope_set indexes it
  float norm_eps = 1e-5f;
  // Multiplies q.k; 1 / sqrt(head_dim) unless the architecture says otherwise.
  float attention_scale = 0;
  float embedding_scale = 1;  // multiplies embedding rows (Gemma: sqrt(d_model))
  Activation activation = Activation::kSilu;
  bool has_qkv_bias = false;  // attn_{q,k,v}.bias required (qwen2); optional ones are found by name
  bool has_qk_norm = false;   // attn_{q,k}_norm.weight [head_dim], before RoPE (qwen3, gemma3)
  bool has_post_norms = false;     // post_attention_norm, post_ffw_norm (gemma3)
  bool has_output_tensor = false;  // false: tied to token_embd
};

/// User overrides of a file's RoPE (`--rope-scaling`, `--rope-freq-base`, `--yarn-*`). Unset = the
/// file's. They concern the full layers; windowed layers keep their own base. A factor given here
/// raises n_ctx_train to n_ctx_original * factor.
struct RopeOverrides {
  std::string scaling;   // "", "none", "linear", "yarn"
  double freq_base = 0;  // 0 = the file's
  double factor = 0;
  uint32_t n_ctx_original = 0;
  double yarn_ext_factor = -1;  // negative = the file's
  double yarn_attn_factor = -1;
  double yarn_beta_fast = -1;
  double yarn_beta_slow = -1;
  uint64_t n_ctx = 0;  // the context asked for; LongRoPE takes its short factors where it fits
                       // n_ctx_original. 0 = n_ctx_train
};

/// Reads and checks the hyper-parameters, and that every tensor the architecture needs is there
/// with its shape. Errors: kUnsupported (architecture: names the known ones; a feature or tensor no
/// row computes), kBadFile (key, wanted range, found; missing tensor; shape), kUsage (an override
/// out of its range), kIo (reading RoPE factors).
ModelSpec read_model_spec(const GgufFile& file, const RopeOverrides& overrides = {});

/// Names of the architectures Strata runs.
std::vector<std::string_view> known_architectures();

/// f16 K and V bytes of one position over all layers (windowed layers included):
/// what `inspect` prints.
uint64_t kv_bytes_per_token(const ModelShape& shape);

}  // namespace strata::engine
