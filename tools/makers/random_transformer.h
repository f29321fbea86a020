// tools/makers/random_transformer.h - a model file with random weights, of any architecture that
// Strata runs and any shape: small ones for tests, large ones for benches.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/tensor_type.h"
#include "engine/gguf/gguf_writer.h"

namespace strata::makers {

/// RoPE keys; a member that stands at "no value" leaves its key out of the file.
struct RandomRope {
  uint32_t n_rot = 0;      // 0 = head_dim
  double freq_base = 0;    // 0 = no key
  double window_base = 0;  // rope.freq_base_swa
  std::string scaling;     // "linear", "yarn", "longrope"
  double factor = 0;
  uint32_t n_ctx_original = 0;
  double attn_factor = 0;
  double ext_factor = -1;
  double beta_fast = 0;
  double beta_slow = 0;
  std::vector<float> freqs;                        // rope_freqs.weight [head_dim / 2]
  std::vector<float> long_factors, short_factors;  // rope_factors_{long,short}.weight
};

struct RandomTransformer {
  std::string architecture = "llama";
  std::string name = "random";
  uint32_t n_layers = 0;
  uint32_t d_model = 0;
  uint32_t n_heads = 0;
  uint32_t n_kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t d_ff = 0;
  uint32_t vocab_size = 0;
  uint32_t n_ctx = 0;
  float norm_eps = 1e-5f;
  bool is_tied = true;
  bool has_qkv_bias = false;
  bool has_output_bias = false;
  bool has_qk_norm = false;
  bool has_post_norms = false;
  uint32_t window = 0;               // attention.sliding_window
  std::vector<bool> window_pattern;  // attention.sliding_window_pattern; empty = no key
  RandomRope rope;
  TensorType embedding_type = TensorType::kF32;  // also of an output head of its own
  std::vector<TensorType> matrix_types = {
      TensorType::kF32};  // taken in turn by the layers' matrices
  uint64_t seed = 1;
};

/// Adds all keys and tensors. Deviations are such that the rows after each norm are about 1,
/// attention scores and logits about 2, and the residual grows by less than 1 per layer.
void add_random_transformer(engine::GgufWriter& writer, const RandomTransformer& model);

/// Errors: kIo.
void write_random_transformer(const RandomTransformer& model, const std::string& path);

}  // namespace strata::makers
