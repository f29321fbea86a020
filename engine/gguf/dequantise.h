// engine/gguf/dequantise.h - decodes any supported tensor type to f32, one scalar function per
// type. Why: the reference the kernels are tested against, and the way norms, biases and RoPE
// factors are read.
#pragma once

#include <cstddef>
#include <span>

#include "base/tensor_type.h"

namespace strata::engine {

/// Decodes out.size() elements (a multiple of the type's block) from `bytes` (exactly their size).
void dequantise(TensorType type, std::span<const std::byte> bytes, std::span<float> out);

}  // namespace strata::engine
