// tests/oracle/reference_forward.h - the forward pass, naive and in double: one token after the
// other, one head after the other, every score kept. No block, no chunk, no thread, no kernel.
// Why: what the engine's logits are compared with, for every architecture. Each logit carries the
// deviation that f32 arithmetic, int8 activations of quantised matrices and the KV codecs may cause
// (tests/oracle/estimate.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/kv_layout.h"
#include "tests/oracle/estimate.h"
#include "tests/oracle/reference_model.h"

namespace strata::oracle {

/// How K and V rest. kF16 rounds them here too, so that only what the engine's own errors add is
/// left to the tolerance; kQ8_0 adds the variance of its codes.
enum class RestingKv : uint8_t { kExact, kF16, kQ8_0 };

RestingKv resting(KvCodec codec);

struct ReferenceOptions {
  RestingKv k = RestingKv::kExact;
  RestingKv v = RestingKv::kExact;
};

/// Logits [tokens.size()][vocab_size] of one text from position 0.
/// Cost: n d_model (...) multiplications per layer's matrices and n^2 / 2 n_heads 2 head_dim for
/// attention, about 1.5 ns each.
std::vector<Estimates> reference_logits(const ReferenceModel& model,
                                        std::span<const int32_t> tokens,
                                        const ReferenceOptions& options = {});

}  // namespace strata::oracle
