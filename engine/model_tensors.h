// engine/model_tensors.h - which tensors a model of an architecture has, and their shapes.
#pragma once

#include "engine/architectures.h"
#include "engine/gguf/gguf_file.h"
#include "engine/model_spec.h"

namespace strata::engine {

/// Checks that every tensor the architecture needs is there with its shape, and that the file holds
/// none that Strata would leave out of the computation. `spec.shape` is filled. Errors: kBadFile
/// (lists missing tensors; a shape: wanted and found), kUnsupported (a tensor the architecture's
/// row lacks).
void check_model_tensors(const GgufFile& file, const Architecture& architecture,
                         const ModelSpec& spec);

}  // namespace strata::engine
