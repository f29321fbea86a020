// tools/serve/order_prompt.h - from an order to the prompt's tokens, and back to text: what needs
// the model's tokenizer and template, but not the engine's thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "engine/engine.h"
#include "tools/serve/answer_service.h"

namespace strata::serve {

/// Threads: every function may be called from any thread.
class OrderPrompts {
 public:
  /// The engine is open and outlives this.
  explicit OrderPrompts(const engine::Engine& engine);

  /// As the model file has it; empty = none: then messages are their texts, one after the other.
  const std::string& template_source() const { return source_; }
  /// Why messages cannot be rendered: it does not parse. Nothing where it does, or there is none.
  const std::optional<Error>& template_fault() const { return template_fault_; }
  /// Errors: kUsage (not just one kind of prompt, a token that the model does not have, tools where
  /// the template takes none), kBadText,
  /// kTemplate (also template_fault()), ContextLengthError.
  std::vector<engine::TokenId> encode(const AnswerOrder& order) const;
  /// The prompt as text. Errors: kTemplate.
  std::string rendered(const AnswerOrder& order) const;
  /// Errors: kUsage.
  std::string decode(const std::vector<engine::TokenId>& tokens) const;

 private:
  void check_messages(const AnswerOrder& order) const;
  std::vector<engine::PromptPart> parts(const AnswerOrder& order) const;
  void check_tokens(const std::vector<engine::TokenId>& tokens) const;

  const engine::Engine& engine_;
  std::string source_;
  std::optional<engine::ChatTemplate> template_;
  std::optional<Error> template_fault_;
};

}  // namespace strata::serve
