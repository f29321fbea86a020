// tools/makers/f32_copy.h - the F32 copy of a model file: same metadata, every tensor decoded.
// Why: engines differ in how they round the activations of quantised layers; on an F32 copy they
// must agree (docs/measurements.md).
#pragma once

#include <string>

namespace strata::makers {

/// Holds all tensors decoded, in memory, until they are written. Errors: those of GgufFile::open;
/// kUnsupported; kIo.
void write_f32_copy(const std::string& in, const std::string& out);

}  // namespace strata::makers
