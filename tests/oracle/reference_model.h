// tests/oracle/reference_model.h - a model file as the reference forward pass sees it.
// Why: read by its own rules, from the file's keys and the papers, and not through ModelSpec: a
// mistake in engine/model_spec.cc, engine/rope_table.cc or the architecture table then shows as
// wrong logits. It trusts the file: what is absent or malformed throws out of the standard library.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/gguf/gguf_file.h"

namespace strata::oracle {

/// Weights [n_out][n_in], decoded; n_out = 0 where the file has no such tensor.
struct ReferenceMatrix {
  std::vector<std::vector<float>> rows;
  bool is_quantised = false;  // an engine may round its input to int8
};

/// angle(position, pair) = position * frequencies[pair]; rotated values are times magnitude.
struct ReferenceRope {
  std::vector<double> frequencies;
  double magnitude = 1;
};

struct ReferenceLayer {
  ReferenceMatrix q, k, v, attn_output, ffn_gate, ffn_up, ffn_down;
  std::vector<float> q_bias, k_bias, v_bias, output_bias;  // empty where the file has none
  std::vector<float> attn_norm, q_norm, k_norm, post_attn_norm, ffn_norm, post_ffn_norm;
  ReferenceRope rope;   // no frequencies: this layer does not rotate
  uint32_t window = 0;  // 0 = all earlier positions
};

struct ReferenceModel {
  uint32_t d_model = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0, vocab_size = 0;
  double norm_eps = 0;
  double score_scale = 0;
  double embedding_scale = 1;
  bool pairs_halves = false;  // RoPE turns (x[i], x[i + n_rot / 2]), else (x[2i], x[2i + 1])
  bool has_gelu = false;      // else SiLU
  ReferenceMatrix embedding, output;
  std::vector<float> output_norm;
  std::vector<ReferenceLayer> layers;
};

/// `n_ctx`: the context the model is to run with, which chooses LongRoPE's factors; 0 = as trained.
ReferenceModel read_reference_model(const engine::GgufFile& file, uint32_t n_ctx = 0);

}  // namespace strata::oracle
