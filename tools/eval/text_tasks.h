// tools/eval/text_tasks.h - tasks of any length in tokens, as a model's own tokenizer counts, in
// its own chat format where it has one.
#pragma once

#include <cstdint>
#include <string_view>

#include "engine/template/chat_template.h"
#include "tools/eval/task.h"

namespace strata::eval {

class TaskWriter {
 public:
  /// `chat` may be null: then a question follows the text as text. Both outlive the writer.
  TaskWriter(const engine::Tokenizer& tokenizer, const engine::ChatTemplate* chat)
      : tokenizer_(tokenizer), chat_(chat) {}

  /// A case whose context, question and answer take at most n_tokens, and nearly as many. `depth`
  /// in [0, 1] is where the first line that matters stands. Errors: kUsage (too short for the lines
  /// that matter); kTemplate; those of Tokenizer::encode.
  TaskCase make(std::string_view task, uint64_t n_tokens, double depth, uint64_t seed) const;

 private:
  struct Split {
    std::vector<engine::TokenId> context, question;
  };
  Split encode(const std::string& document, const std::string& question) const;
  uint64_t n_tokens_of(const std::string& text) const;

  const engine::Tokenizer& tokenizer_;
  const engine::ChatTemplate* chat_;
};

}  // namespace strata::eval
