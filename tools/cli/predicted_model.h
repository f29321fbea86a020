// tools/cli/predicted_model.h - a model file as predictions see it: its shape, and the bytes of its
// weights as they stand in the file.
#pragma once

#include "engine/gguf/gguf_file.h"
#include "planner/virtual/predict.h"

namespace strata::cli {

/// Reads the head alone. Errors: those of read_model_spec(); kUnsupported (a codec that the model's
/// heads do not allow).
planner::PredictedModel predicted_model(const engine::GgufFile& file, KvCodec k_codec,
                                        KvCodec v_codec);

}  // namespace strata::cli
