// tools/gpu/random_model.h - a model of random weights for whole steps: its sizes, and bytes that
// keep a row's size through every matrix, so that logits are finite and can be compared.
//
// A kind of matrix has kDrawnPanels panels that are drawn once; every layer has them over and over
// at addresses of its own, beginning with another one. So the caches see as many bytes as the model
// has, and layers that are exchanged give other logits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "gpu_attn/device_model.h"

namespace strata::gpu_bench {

struct RandomModelSizes {
  uint32_t n_layers;
  uint32_t d_model;
  uint32_t n_heads;
  uint32_t n_kv_heads;
  uint32_t head_dim;
  uint32_t d_ff;
  uint32_t vocab_size;
};

/// Layers in Q4_K, the output head in Q6_K, f16 K and V; rows are embedded by the host. Without a
/// pointer of the device.
gpu_attn::DeviceModel describe(const RandomModelSizes& sizes);

class RandomPanels {
 public:
  static constexpr uint32_t kDrawnPanels = 64;

  explicit RandomPanels(const gpu_attn::DeviceModel& model);

  /// Panels that `matrix` (as kLayerMatrixMembers) of a layer begins with, in order; behind them it
  /// begins anew.
  std::vector<std::byte> layer_panels(uint32_t layer, uint32_t matrix) const;
  const std::vector<std::byte>& head_panels() const { return head_; }

 private:
  std::vector<std::byte> matrices_[gpu_attn::kLayerMatrices];
  uint64_t panel_bytes_[gpu_attn::kLayerMatrices];
  std::vector<std::byte> head_;
};

}  // namespace strata::gpu_bench
