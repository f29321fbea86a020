// tools/cli/model_notes.h - what is said of a model file that runs, but lacks something.
#pragma once

#include "engine/gguf/gguf_file.h"

namespace strata::cli {

/// Says on standard error where a BPE file does not name its pre-tokenizer: the one taken instead
/// may cut words otherwise than the model was trained with, and answers get worse without an error.
void note_missing_pre_tokenizer(const engine::GgufFile& file);

}  // namespace strata::cli
