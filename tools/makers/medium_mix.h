// tools/makers/medium_mix.h - which matrices a quantiser gives more bits in a file that it calls
// medium (Q4_K_M), for models of random weights that are to cost what such files do.
#pragma once

#include <cstdint>

namespace strata::makers {

/// Places among a layer's matrices, in the order of RandomTransformer::matrix_types: q, k, v,
/// output, gate, up, down.
constexpr uint32_t kValueMatrix = 2, kOutputMatrix = 3, kDownMatrix = 6, kLayerMatrices = 7;

/// As llama.cpp's quantisers spread bits over layers: the first and the last eighth, and every
/// third between.
constexpr bool has_more_bits(uint32_t layer, uint32_t n_layers) {
  return layer < n_layers / 8 || layer >= 7 * n_layers / 8 || (layer - n_layers / 8) % 3 == 2;
}

constexpr bool is_in_medium_mix(uint32_t matrix, uint32_t layer, uint32_t n_layers) {
  return (matrix == kValueMatrix || matrix == kDownMatrix) && has_more_bits(layer, n_layers);
}

}  // namespace strata::makers
