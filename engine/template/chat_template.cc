#include "engine/template/chat_template.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/error.h"
#include "engine/template/render_tree.h"

namespace strata::engine {

struct ChatTemplate::State {
  jinja::SyntaxTree tree;

  jinja::MarkedText render(const std::vector<ChatMessage>& messages,
                           const TemplateContext& context) const;
};

namespace {

// A role that the templates know is part of their markup; any other is the caller's text.
bool is_known_role(const std::string& role) {
  constexpr std::array<std::string_view, 7> kRoles = {"system",    "user",     "assistant", "tool",
                                                      "developer", "function", "ipython"};
  return std::find(kRoles.begin(), kRoles.end(), role) != kRoles.end();
}

void add_fields(jinja::Runtime& rt, const nlohmann::ordered_json& fields, jinja::Mapping& message) {
  STRATA_CHECK(fields.is_object() && !fields.contains("role") && !fields.contains("content"),
               "%zu further fields of a message", fields.size());
  rt.hold_items(2 * fields.size());
  for (const auto& [key, value] : fields.items()) {
    message.items.emplace_back(rt.text(jinja::MarkedText(key, true)),
                               jinja::from_json(rt, value, true));
  }
}

jinja::Value messages_value(jinja::Runtime& rt, const std::vector<ChatMessage>& messages) {
  std::vector<jinja::Value> list;
  for (const ChatMessage& message : messages) {
    jinja::Mapping* one = rt.mapping();
    rt.hold_items(4);
    one->items.emplace_back(rt.text(std::string("role")),
                            rt.text(jinja::MarkedText(message.role, !is_known_role(message.role))));
    one->items.emplace_back(rt.text(std::string("content")),
                            rt.text(jinja::MarkedText(message.content, true)));
    if (message.fields) add_fields(rt, *message.fields, *one);
    list.emplace_back(one);
  }
  return rt.list(std::move(list));
}

}  // namespace

jinja::MarkedText ChatTemplate::State::render(const std::vector<ChatMessage>& messages,
                                              const TemplateContext& context) const {
  jinja::Runtime rt(jinja::RenderLimits{}, messages.size());
  jinja::Variables variables;
  variables.emplace_back("messages", messages_value(rt, messages));
  variables.emplace_back("add_generation_prompt", context.add_generation_prompt);
  variables.emplace_back("bos_token", rt.text(context.bos_token));
  variables.emplace_back("eos_token", rt.text(context.eos_token));
  variables.emplace_back("tools", context.tools ? jinja::from_json(rt, *context.tools, true)
                                                : jinja::Value(jinja::None{}));
  if (context.extra && context.extra->is_object()) {
    for (const auto& [name, value] : context.extra->items()) {
      variables.emplace_back(name, jinja::from_json(rt, value, true));
    }
  }
  return jinja::render_tree(tree, rt, variables, context.date_iso);
}

ChatTemplate::ChatTemplate(std::unique_ptr<State> state) : state_(std::move(state)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

ChatTemplate ChatTemplate::parse(std::string_view source) {
  auto state = std::make_unique<State>();
  state->tree = jinja::parse_template(source);
  return ChatTemplate(std::move(state));
}

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages,
                                 const TemplateContext& context) const {
  return state_->render(messages, context).bytes();
}

std::vector<PromptPart> ChatTemplate::render_parts(const std::vector<ChatMessage>& messages,
                                                   const TemplateContext& context) const {
  const jinja::MarkedText text = state_->render(messages, context);
  std::vector<PromptPart> parts;
  size_t done = 0;
  const auto add = [&](size_t end, bool is_markup) {
    if (end > done) parts.push_back({text.bytes().substr(done, end - done), is_markup});
    done = end;
  };
  for (const jinja::ByteRange& range : text.user()) {
    add(range.begin, true);
    add(range.end, false);
  }
  add(text.size(), true);
  return parts;
}

}  // namespace strata::engine
