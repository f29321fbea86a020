// base/model_shape.h - the shape of a model: what every folder may know of it. Data, not code.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace strata {

/// What a layer keeps of the past. kShared reads another layer's stream; kLatent (MLA) and
/// kRecurrent keep other things: they have names here so that step plans and block tables need no
/// new shape when they arrive.
enum class LayerKind : uint8_t { kFull, kWindow, kShared, kLatent, kRecurrent };

struct LayerShape {
  LayerKind kind = LayerKind::kFull;
  uint32_t n_heads = 0;     // query heads
  uint32_t n_kv_heads = 0;  // divides n_heads
  uint32_t d_ff = 0;
  uint32_t window = 0;   // positions attended, the current one included; 0 = all (kFull)
  uint8_t rope_set = 0;  // index into the model's RoPE frequency sets
  bool has_rope = true;  // SmolLM3 leaves every fourth layer unrotated
};

struct ModelShape {
  std::string architecture;  // general.architecture of the file
  uint32_t n_layers = 0;
  uint32_t d_model = 0;
  uint32_t head_dim = 0;  // of K and V alike
  uint32_t vocab_size = 0;
  uint32_t n_ctx_train = 0;
  std::vector<LayerShape> layers;  // [n_layers]

  uint32_t group(uint32_t layer) const { return layers[layer].n_heads / layers[layer].n_kv_heads; }
};

}  // namespace strata
