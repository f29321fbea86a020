// engine/template/chat_template.h - renders a conversation to prompt text with the model file's own Jinja template.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace strata::engine {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant", "tool"
  std::string content;
};

/// Values a template may read beside the messages.
struct TemplateContext {
  bool add_generation_prompt = true;
  std::string bos_token;
  std::string eos_token;
  const nlohmann::ordered_json* tools = nullptr;  // null = none
  const nlohmann::ordered_json* extra = nullptr;  // further variables, an object; null = none
};

/// A parsed template. Rendering has no access to the host and is bounded in steps, output bytes, depth and ranges.
class ChatTemplate {
 public:
  /// Errors: kTemplate (line, column, what was expected).
  static ChatTemplate parse(std::string_view source);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();
  /// Errors: kTemplate (line, what; a budget that ran out; the template's own raise_exception).
  std::string render(const std::vector<ChatMessage>& messages, const TemplateContext& context) const;

 private:
  struct State;
  explicit ChatTemplate(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace strata::engine
