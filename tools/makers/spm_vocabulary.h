// tools/makers/spm_vocabulary.h - a small SPM vocabulary for made models: any text can be written
// in it.
#pragma once

#include <cstdint>

#include "engine/gguf/gguf_writer.h"

namespace strata::makers {

/// <unk> <s> </s>, the 256 bytes, the space mark and the 26 small letters.
inline constexpr uint32_t kSpmTokensMin = 3 + 256 + 1 + 26;

/// Adds the tokenizer keys of a vocabulary of n_tokens >= kSpmTokensMin; the tokens beyond are
/// words and halves of words.
void add_spm_vocabulary(engine::GgufWriter& writer, uint32_t n_tokens);

}  // namespace strata::makers
