// engine/architectures.h - the architectures Strata runs, one row of facts each.
// Why: an architecture is data that one walk reads, not a forward function of its own; a row nobody
// wrote is refused by name. Source: what the converters write and the public loaders hard-code for
// each architecture (docs/file-format.md, "Architectures").
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/kernel_table.h"
#include "engine/model_spec.h"

namespace strata::engine {

/// How q.k is scaled.
enum class AttentionScale : uint8_t {
  kHeadDim,  // 1 / sqrt(head_dim)
  // 1 / sqrt(head_dim), but 1 / sqrt(d_model / n_heads) for the 27B, known by its 62 layers.
  kGemma3,
};

struct Architecture {
  std::string_view name;  // general.architecture
  RopePairing rope_pairing = RopePairing::kAdjacent;
  Activation activation = Activation::kSilu;
  AttentionScale attention_scale = AttentionScale::kHeadDim;
  // attn_{q,k,v}.bias must be there; elsewhere they are used where they are.
  bool has_qkv_bias = false;
  bool has_qk_norm = false;           // attn_{q,k}_norm.weight
  bool has_post_norms = false;        // post_attention_norm.weight, post_ffw_norm.weight
  bool has_scaled_embedding = false;  // embedding rows times sqrt(d_model)
  bool has_rope_factors = false;      // rope_freqs.weight, rope_factors_{long,short}.weight
  uint32_t unrotated_every = 0;       // layer i has no RoPE where (i + 1) % this == 0; 0 = all have
  // Layer i is full where (i + 1) % this == 0, else windowed; 0 = no windows.
  uint32_t full_every = 0;
  // RoPE base of windowed layers where the file has no rope.freq_base_swa.
  double window_freq_base = 0;
};

/// Every row, in the order error messages name them.
std::span<const Architecture> architectures();
/// The row of a name, or null.
const Architecture* find_architecture(std::string_view name);

}  // namespace strata::engine
