// engine/template/chat_template.h - renders a conversation to prompt text with the model file's own
// Jinja template. The language is the part of Jinja that published chat templates use, with
// trim_blocks and lstrip_blocks on as they expect. Not covered: inheritance, include and import,
// autoescaping (`safe` does nothing), integers beyond 64 bits.
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
  // What else the template may read of the message, as `message.tool_calls`: an object without the
  // two keys above; null = nothing.
  std::shared_ptr<const nlohmann::ordered_json> fields = nullptr;
};

/// Values a template may read beside the messages.
struct TemplateContext {
  bool add_generation_prompt = true;
  std::string bos_token;
  std::string eos_token;
  const nlohmann::ordered_json* tools = nullptr;  // null = none
  const nlohmann::ordered_json* extra = nullptr;  // further variables, an object; null = none
  /// What strftime_now shows: "YYYY-MM-DD" or "YYYY-MM-DDTHH:MM:SS", filled in by the caller
  /// because a rendering never looks at a clock. Empty: the template finds no strftime_now, and
  /// those that ask fall back to a date of their own.
  std::string date_iso;
};

/// A stretch of prompt text.
struct PromptPart {
  std::string text;
  bool is_markup = false;  // written by the template; false: from the conversation (messages,
                           // tools, extra variables)
};

/// A parsed template. Rendering has no access to the host and is bounded in steps, output bytes,
/// memory, depth and ranges (engine/template/runtime.h). Immutable:
/// several threads may render at once.
class ChatTemplate {
 public:
  /// Errors: kTemplate (line, column, what was expected).
  static ChatTemplate parse(std::string_view source);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();
  /// Errors: kTemplate (line, what; a budget that ran out; the template's own raise_exception).
  std::string render(const std::vector<ChatMessage>& messages,
                     const TemplateContext& context) const;
  /// The same text in parts, none of them empty, markup and conversation in turn. Where the
  /// template changes text of the conversation (case, JSON, formats), the whole result of that
  /// change counts as conversation.
  std::vector<PromptPart> render_parts(const std::vector<ChatMessage>& messages,
                                       const TemplateContext& context) const;

 private:
  struct State;
  explicit ChatTemplate(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace strata::engine
