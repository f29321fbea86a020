// tools/cli/predicted_model.h - a model file as predictions see it: its shape, and the bytes of its
// weights as they stand in the file.
#pragma once

#include "engine/gguf/gguf_file.h"
#include "planner/virtual/predict.h"
#include "tools/cli/command_line.h"

namespace strata::cli {

/// The card that --device virtual:NAME names. Errors: kUsage, listing those there are.
const planner::DeviceProfile& virtual_profile(const Command& command);

/// Reads the head alone. Errors: those of read_model_spec(); kUnsupported (a codec that the model's
/// heads do not allow).
planner::PredictedModel predicted_model(const engine::GgufFile& file, KvCodec k_codec,
                                        KvCodec v_codec);

}  // namespace strata::cli
