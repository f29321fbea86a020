// engine/rope_spec.h - reads a model's RoPE frequency sets from its keys and factor tensors, with
// the user's overrides.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/architectures.h"
#include "engine/hyper_parameters.h"
#include "engine/model_spec.h"

namespace strata::engine {

/// Set 0 turns full layers; set 1, where the model has windowed layers, turns those. No factors
/// yet: they are tensors. Errors: kBadFile, kUnsupported (scaling type), kUsage (an override out of
/// its range).
std::vector<RopeSpec> read_rope_sets(const HyperParameters& parameters,
                                     const Architecture& architecture, uint32_t head_dim,
                                     uint32_t n_ctx_train, bool has_windows,
                                     const RopeOverrides& overrides);

/// Reads rope_freqs.weight or rope_factors_{long,short}.weight into `full`, after their shapes were
/// checked. Errors: kBadFile (a factor that is not positive and finite;
/// longrope without factors), kIo.
void read_rope_factors(const GgufFile& file, const Architecture& architecture, uint64_t n_ctx,
                       RopeSpec& full);

}  // namespace strata::engine
