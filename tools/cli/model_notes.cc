#include "tools/cli/model_notes.h"

#include "tools/cli/notices.h"

namespace strata::cli {

void note_missing_pre_tokenizer(const engine::GgufFile& file) {
  if (file.get_string("tokenizer.ggml.model") != "gpt2") return;
  if (file.get_string("tokenizer.ggml.pre")) return;
  notice(
      "note: the file does not name its pre-tokenizer (tokenizer.ggml.pre); \"default\" is taken, "
      "which may cut words otherwise than this model learnt");
}

}  // namespace strata::cli
