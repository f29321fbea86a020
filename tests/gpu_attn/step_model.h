// tests/gpu_attn/step_model.h - a small random model and its forward pass in double precision, one
// row after another, as the formulas say it: nothing is rounded to int8 or to a KV codec.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "gpu_attn/device_model.h"
#include "tests/cpu_attn/drawn_matrix.h"

namespace strata::gpu_test {

struct StepModelOptions {
  std::string name;
  TensorType weights = TensorType::kQ8_0;
  KvCodec kv_codec = KvCodec::kF16;
  uint32_t n_layers = 2;
  uint32_t head_dim = 32;
  RopePairing pairing = RopePairing::kHalves;
  DeviceActivation activation = DeviceActivation::kSiluMul;
  bool has_biases = false;
  bool has_qk_norm = false;
  bool has_post_norms = false;
  uint32_t window = 0;          // of every second layer
  bool has_bare_layer = false;  // the last layer is not rotated
  float embedding_scale = 1;
};

struct StepLayer {
  cpu_attn::DrawnMatrix matrices[gpu_attn::kLayerMatrices];  // as kLayerMatrixMembers
  std::vector<float> attn_norm, ffn_norm, q_bias, k_bias, v_bias, output_bias, q_norm, k_norm,
      post_attn_norm, post_ffn_norm;
};

struct StepModel {
  StepModelOptions options;
  gpu_attn::DeviceModel shape;  // without a pointer of the device
  std::vector<StepLayer> layers;
  cpu_attn::DrawnMatrix embedding, output;
  std::vector<float> output_norm;

  static constexpr uint32_t kDModel = 64;
  static constexpr uint32_t kHeads = 4;
  static constexpr uint32_t kKvHeads = 2;
  static constexpr uint32_t kDFf = 96;
  static constexpr uint32_t kVocab = 100;

  static StepModel draw(const StepModelOptions& options, uint32_t seed);

  /// [n_rot / 2] pairs (cos, sin), of a RoPE set.
  std::vector<float> angles(uint32_t rope_set, uint32_t position) const;
};

/// Reads the tokens of one text in order.
class StepReference {
 public:
  explicit StepReference(const StepModel& model);

  /// Logits after `token` at the next position.
  std::vector<double> next(int32_t token);

 private:
  using Row = std::vector<double>;
  void attention(uint32_t layer, Row& residual);
  Row attended(uint32_t layer, const Row& q) const;
  void feed_forward(uint32_t layer, Row& residual) const;
  Row rms_norm(const Row& x, const std::vector<float>& weight) const;
  void rotate(uint32_t layer, Row& heads, const std::vector<float>& norm) const;

  const StepModel& model_;
  uint32_t position_ = 0;
  std::vector<std::vector<Row>> k_, v_;  // [layer][position]
};

}  // namespace strata::gpu_test
