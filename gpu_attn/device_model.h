// gpu_attn/device_model.h - a model as a device holds it, and who gives a step its layers' weights.
// Why: a step over a device's memory needs no file, no tokenizer and no host memory.
#pragma once

#include <cstdint>
#include <vector>

#include "base/device_table.h"
#include "base/layer_piece.h"
#include "base/model_shape.h"

namespace strata::gpu_attn {

/// One layer's weights; every pointer is the device's. Null: the architecture has no such tensor.
struct DeviceLayerWeights {
  PackedMatrix q, k, v, attn_output, ffn_gate, ffn_up, ffn_down;
  const float* attn_norm = nullptr;  // [d_model]
  const float* ffn_norm = nullptr;
  const float* q_bias = nullptr;
  const float* k_bias = nullptr;
  const float* v_bias = nullptr;
  const float* output_bias = nullptr;
  const float* q_norm = nullptr;  // [head_dim]
  const float* k_norm = nullptr;
  const float* post_attn_norm = nullptr;  // [d_model]
  const float* post_ffn_norm = nullptr;
};

/// The matrices in the order in which a step reads them.
inline constexpr uint32_t kLayerMatrices = 7;
inline constexpr PackedMatrix DeviceLayerWeights::*kLayerMatrixMembers[kLayerMatrices] = {
    &DeviceLayerWeights::q,           &DeviceLayerWeights::k,        &DeviceLayerWeights::v,
    &DeviceLayerWeights::attn_output, &DeviceLayerWeights::ffn_gate, &DeviceLayerWeights::ffn_up,
    &DeviceLayerWeights::ffn_down};

inline constexpr uint32_t kAttentionMatrices = 4;  // the first; the others are the FFN's
constexpr LayerPiece matrix_piece(uint32_t idx) {
  return idx < kAttentionMatrices ? LayerPiece::kAttention : LayerPiece::kFfn;
}

/// Of these pieces' matrices as packed, one after another.
inline uint64_t layer_bytes(const DeviceLayerWeights& layer, PieceSet pieces = kWholeLayer) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < kLayerMatrices; ++i)
    if (pieces.has(matrix_piece(i))) bytes += (layer.*kLayerMatrixMembers[i]).total_bytes();
  return bytes;
}

struct DeviceModel {
  uint32_t d_model = 0;
  uint32_t head_dim = 0;
  uint32_t vocab_size = 0;
  std::vector<LayerShape> shapes;          // [n_layers]
  std::vector<DeviceLayerWeights> layers;  // matrices that are streamed have no bytes here
  PackedMatrix embedding;                  // without bytes: the host decodes rows and sends them
  PackedMatrix output;
  const float* output_norm = nullptr;
  std::vector<uint32_t> n_rot;  // of each RoPE set
  RopePairing pairing = RopePairing::kAdjacent;
  DeviceActivation activation = DeviceActivation::kSiluMul;
  KvLayout kv_layout;
  float norm_eps = 1e-5f;
  float attention_scale = 0;
  float embedding_scale = 1;
};

/// Gives a step its layers' weights. A step takes layers in order, each once. Errors are numbers of
/// the device.
class LayerWeightsSource {
 public:
  virtual ~LayerWeightsSource() = default;

  /// The layer's weights, good for what is queued on `stream` from here to release(): where they
  /// are still on their way the stream is made to wait, never the host. The host does where they
  /// are not in its memory yet, and what it waits for may throw (BroughtLayers).
  virtual int take(DeviceStream* stream, uint32_t layer, const DeviceLayerWeights** weights) = 0;
  /// All that reads them is queued.
  virtual int release(DeviceStream* stream, uint32_t layer) = 0;
  /// Queues on `stream` a wait for all that is on its way: before a capture begins, and before it
  /// ends.
  virtual int settle(DeviceStream* stream) = 0;
};

/// All of them stay.
class ResidentWeights final : public LayerWeightsSource {
 public:
  /// `layers` is borrowed.
  explicit ResidentWeights(const std::vector<DeviceLayerWeights>& layers) : layers_(layers) {}

  int take(DeviceStream*, uint32_t layer, const DeviceLayerWeights** weights) override {
    *weights = &layers_[layer];
    return 0;
  }
  int release(DeviceStream*, uint32_t) override { return 0; }
  int settle(DeviceStream*) override { return 0; }

 private:
  const std::vector<DeviceLayerWeights>& layers_;
};

}  // namespace strata::gpu_attn
