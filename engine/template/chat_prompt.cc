#include "engine/template/chat_prompt.h"

#include <algorithm>
#include <array>
#include <functional>
#include <set>
#include <string_view>
#include <unordered_set>

namespace strata::engine {
namespace {

// The control token texts, to be found at a place of a text: the longest that stands there.
class ControlTexts {
 public:
  explicit ControlTexts(std::span<const std::string> texts) {
    for (const std::string& text : texts) {
      if (text.empty()) continue;
      texts_.insert(text);
      lengths_.insert(text.size());
      starts_[static_cast<uint8_t>(text[0])] = true;
    }
  }

  /// Bytes of the control text at `at`, or 0.
  size_t length_at(std::string_view text, size_t at) const {
    if (!starts_[static_cast<uint8_t>(text[at])]) return 0;
    for (const size_t length : lengths_) {
      if (length <= text.size() - at && texts_.contains(text.substr(at, length))) return length;
    }
    return 0;
  }

 private:
  std::unordered_set<std::string_view> texts_;
  std::set<size_t, std::greater<>> lengths_;
  std::array<bool, 256> starts_{};
};

void append_plain(std::vector<PromptPart>& parts, std::string_view text) {
  if (text.empty()) return;
  if (parts.empty() || parts.back().is_markup) parts.push_back({"", false});
  parts.back().text += text;
}

void append_markup(std::vector<PromptPart>& parts, std::string_view text,
                   const ControlTexts& controls) {
  size_t plain = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t length = controls.length_at(text, at);
    if (length == 0) {
      ++at;
      continue;
    }
    append_plain(parts, text.substr(plain, at - plain));
    parts.push_back({std::string(text.substr(at, length)), true});
    at += length;
    plain = at;
  }
  append_plain(parts, text.substr(plain));
}

}  // namespace

std::vector<PromptPart> render_chat(const ChatTemplate& chat,
                                    const std::vector<ChatMessage>& messages,
                                    const TemplateContext& context,
                                    std::span<const std::string> control_texts) {
  std::vector<PromptPart> rendered = chat.render_parts(messages, context);
  if (control_texts.empty()) return rendered;
  const ControlTexts controls(control_texts);
  std::vector<PromptPart> parts;
  for (const PromptPart& part : rendered) {
    if (part.is_markup) {
      append_markup(parts, part.text, controls);
    } else {
      append_plain(parts, part.text);
    }
  }
  return parts;
}

}  // namespace strata::engine
