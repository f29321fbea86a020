#include "engine/architectures.h"

#include <algorithm>
#include <array>

namespace strata::engine {
namespace {

// Also what other families are converted to: Mistral, SmolLM2 and Llama 2, 3 and 3.x all say
// "llama".
constexpr std::array kArchitectures = {
    Architecture{.name = "llama", .has_rope_factors = true},
    Architecture{.name = "smollm3", .unrotated_every = 4},
    Architecture{.name = "qwen2", .rope_pairing = RopePairing::kHalves, .has_qkv_bias = true},
    Architecture{.name = "qwen3", .rope_pairing = RopePairing::kHalves, .has_qk_norm = true},
    Architecture{.name = "gemma3",
                 .rope_pairing = RopePairing::kHalves,
                 .activation = Activation::kGeluTanh,
                 .attention_scale = AttentionScale::kGemma3,
                 .has_qk_norm = true,
                 .has_post_norms = true,
                 .has_scaled_embedding = true,
                 .full_every = 6,
                 .window_freq_base = 10000.0},
};

}  // namespace

std::span<const Architecture> architectures() { return kArchitectures; }

const Architecture* find_architecture(std::string_view name) {
  const auto* found = std::ranges::find(kArchitectures, name, &Architecture::name);
  return found == kArchitectures.end() ? nullptr : found;
}

std::vector<std::string_view> known_architectures() {
  std::vector<std::string_view> names;
  for (const Architecture& row : kArchitectures) names.push_back(row.name);
  return names;
}

}  // namespace strata::engine
