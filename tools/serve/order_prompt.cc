#include "tools/serve/order_prompt.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/prompt_tokens.h"

namespace strata::serve {

using engine::TokenId;

OrderPrompts::OrderPrompts(const engine::Engine& engine) : engine_(engine) {
  const auto source = engine.file().get_string("tokenizer.chat_template");
  if (!source) return;
  source_ = *source;
  try {
    template_ = engine::ChatTemplate::parse(source_);
  } catch (const Error& error) {
    template_fault_ = Error(ErrorCode::kTemplate,
                            fmt::format("the model's chat template does not parse: {} ({})",
                                        error.what(), error.where()),
                            "tokenizer.chat_template",
                            "ask /v1/completions with the markup in the prompt, or serve a file "
                            "whose template parses");
  }
}

/// A template that never speaks of tools would leave them out silently.
void OrderPrompts::check_messages(const AnswerOrder& order) const {
  if (template_fault_ && !order.messages.empty()) throw *template_fault_;
  if (order.tools.is_null() || order.tools.empty()) return;
  if (template_ && source_.find("tools") != std::string::npos) return;
  throw Error(ErrorCode::kUsage, "the model's chat template takes no tools", "tools",
              "leave tools out, or use a model that was trained to call them");
}

std::vector<engine::PromptPart> OrderPrompts::parts(const AnswerOrder& order) const {
  const engine::Tokenizer& tokenizer = engine_.tokenizer();
  engine::TemplateContext context;
  if (tokenizer.spec().bos != engine::kNoToken)
    context.bos_token = tokenizer.piece(tokenizer.spec().bos, true);
  if (tokenizer.spec().eos != engine::kNoToken)
    context.eos_token = tokenizer.piece(tokenizer.spec().eos, true);
  if (!order.tools.is_null()) context.tools = &order.tools;
  if (!order.template_values.is_null()) context.extra = &order.template_values;
  auto parts = template_->render_parts(order.messages, context);
  if (!order.answer_begin.empty()) parts.push_back({order.answer_begin, true});
  return parts;
}

std::string OrderPrompts::rendered(const AnswerOrder& order) const {
  check_messages(order);
  std::string text;
  if (template_)
    for (const engine::PromptPart& part : parts(order)) text += part.text;
  else
    for (const engine::ChatMessage& message : order.messages) text += message.content;
  return text;
}

void OrderPrompts::check_tokens(const std::vector<TokenId>& tokens) const {
  const uint32_t n = engine_.spec().shape.vocab_size;
  for (const TokenId token : tokens)
    if (token < 0 || static_cast<uint32_t>(token) >= n)
      throw Error(ErrorCode::kUsage, fmt::format("token {} of a model with {}", token, n), "prompt",
                  fmt::format("use tokens from 0 to {}", n - 1));
}

std::vector<TokenId> OrderPrompts::encode(const AnswerOrder& order) const {
  const int n_kinds = (order.messages.empty() ? 0 : 1) + (order.text.empty() ? 0 : 1) +
                      (order.tokens.empty() ? 0 : 1);
  if (n_kinds > 1)
    throw Error(ErrorCode::kUsage, "several kinds of prompt", "prompt",
                "give messages, a text or tokens");
  check_messages(order);
  std::vector<TokenId> prompt;
  if (!order.tokens.empty()) {
    check_tokens(order.tokens);
    prompt = order.tokens;
  } else if (order.messages.empty()) {
    // Whoever gives a text without a template writes the markup.
    prompt = engine::encode_text_prompt(engine_.tokenizer(), order.text, true);
  } else if (template_) {
    prompt = engine::encode_chat_prompt(engine_.tokenizer(), parts(order));
  } else {
    prompt = engine::encode_text_prompt(engine_.tokenizer(), rendered(order), false);
  }
  engine::check_prompt_fits(prompt.size(), engine_.context().n_ctx,
                            engine_.spec().shape.n_ctx_train);
  return prompt;
}

std::string OrderPrompts::decode(const std::vector<TokenId>& tokens) const {
  check_tokens(tokens);
  return engine_.tokenizer().decode(tokens, true);
}

}  // namespace strata::serve
