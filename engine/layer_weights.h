// engine/layer_weights.h - what a layer's operations read, and which tensors of the file hold it.
#pragma once

#include <span>
#include <string_view>

#include "base/layer_piece.h"
#include "base/packed_matrix.h"

namespace strata::engine {

/// One layer's weights. Empty spans: the architecture has no such tensor.
struct LayerWeights {
  PackedMatrix q, k, v, attn_output, ffn_gate, ffn_up, ffn_down;
  std::span<const float> attn_norm, ffn_norm;  // [d_model]
  std::span<const float> q_bias, k_bias, v_bias, output_bias;
  std::span<const float> q_norm, k_norm;                 // [head_dim]
  std::span<const float> post_attn_norm, post_ffn_norm;  // [d_model]
};

/// The matrices in the order in which a step reads them, which is the order they are streamed in.
/// Every layer has all of them.
struct LayerMatrix {
  std::string_view tensor;  // after "blk.N."
  PackedMatrix LayerWeights::*member;
  LayerPiece piece;
};
inline constexpr LayerMatrix kLayerMatrices[] = {
    {"attn_q.weight", &LayerWeights::q, LayerPiece::kAttention},
    {"attn_k.weight", &LayerWeights::k, LayerPiece::kAttention},
    {"attn_v.weight", &LayerWeights::v, LayerPiece::kAttention},
    {"attn_output.weight", &LayerWeights::attn_output, LayerPiece::kAttention},
    {"ffn_gate.weight", &LayerWeights::ffn_gate, LayerPiece::kFfn},
    {"ffn_up.weight", &LayerWeights::ffn_up, LayerPiece::kFfn},
    {"ffn_down.weight", &LayerWeights::ffn_down, LayerPiece::kFfn},
};

/// The vectors. read_model_spec has checked that a file holds those its architecture needs and no
/// others, so each is taken where it is there.
struct LayerVector {
  std::string_view tensor;
  std::span<const float> LayerWeights::*member;
};
inline constexpr LayerVector kLayerVectors[] = {
    {"attn_norm.weight", &LayerWeights::attn_norm},
    {"attn_q.bias", &LayerWeights::q_bias},
    {"attn_k.bias", &LayerWeights::k_bias},
    {"attn_v.bias", &LayerWeights::v_bias},
    {"attn_output.bias", &LayerWeights::output_bias},
    {"attn_q_norm.weight", &LayerWeights::q_norm},
    {"attn_k_norm.weight", &LayerWeights::k_norm},
    {"post_attention_norm.weight", &LayerWeights::post_attn_norm},
    {"post_ffw_norm.weight", &LayerWeights::post_ffn_norm},
    {"ffn_norm.weight", &LayerWeights::ffn_norm},
};

}  // namespace strata::engine
