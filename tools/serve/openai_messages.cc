#include <array>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "tools/serve/request_shapes.h"

namespace strata::serve {
namespace {

using nlohmann::ordered_json;

/// Templates want the arguments of earlier calls as an object; clients send its text.
ordered_json arguments_value(const FieldReader& function, JsonBudget& budget) {
  const ordered_json* arguments = function.find("arguments");
  if (!arguments) return ordered_json::object();
  if (arguments->is_object()) return *arguments;
  if (!arguments->is_string()) function.refuse("arguments", "JSON text");
  try {
    return parse_object(arguments->get_ref<const std::string&>(), budget);
  } catch (const Error&) {
    return *arguments;  // a model's own text, which need not be JSON
  }
}

ordered_json tool_calls_value(const FieldReader& message, const ordered_json& calls,
                              JsonBudget& budget) {
  ordered_json out = ordered_json::array();
  for (size_t i = 0; i < calls.size(); ++i) {
    const FieldReader call(calls[i], fmt::format("{}[{}]", message.path_of("tool_calls"), i));
    if (call.text("type").value_or("function") != "function") call.refuse("type", "\"function\"");
    const ordered_json* function = call.object("function");
    if (!function) call.refuse("function", "an object");
    const FieldReader fields(*function, call.path_of("function"));
    ordered_json one = ordered_json::object();
    if (auto id = call.text("id")) one["id"] = *std::move(id);
    one["type"] = "function";
    one["function"] = {{"name", fields.required_text("name")},
                       {"arguments", arguments_value(fields, budget)}};
    out.push_back(std::move(one));
  }
  return out;
}

std::string role_of(const FieldReader& message) {
  constexpr std::array<std::string_view, 4> kRoles = {"system", "user", "assistant", "tool"};
  std::string role = message.text("role").value_or("");
  if (role == "developer") return "system";
  for (const std::string_view known : kRoles)
    if (role == known) return role;
  message.refuse("role", "system, developer, user, assistant or tool");
}

engine::ChatMessage openai_message(const FieldReader& message, JsonBudget& budget) {
  std::string role = role_of(message);
  ordered_json fields = ordered_json::object();
  if (auto name = message.text("name")) fields["name"] = *std::move(name);
  const ordered_json* calls = nullptr;
  if (role == "assistant") {
    calls = message.array("tool_calls");
    if (calls && !calls->empty()) fields["tool_calls"] = tool_calls_value(message, *calls, budget);
    if (auto reasoning = message.text("reasoning_content"))
      fields["reasoning_content"] = *std::move(reasoning);
    if (message.find("function_call")) message.refuse("function_call", "tool_calls in its place");
    if (message.find("audio")) message.refuse("audio", "text");
  } else if (role == "tool") {
    if (auto id = message.text("tool_call_id")) fields["tool_call_id"] = *std::move(id);
  }
  auto content = content_text(message);
  if (!content && !calls) message.refuse("content", "a string or an array of text parts");
  return message_of(std::move(role), std::move(content).value_or(""), std::move(fields));
}

}  // namespace

std::vector<engine::ChatMessage> openai_messages(RequestBody& body) {
  const ordered_json* list = body.fields.array("messages");
  if (!list || list->empty()) body.fields.refuse("messages", "an array of at least one message");
  std::vector<engine::ChatMessage> messages;
  messages.reserve(list->size());
  for (size_t i = 0; i < list->size(); ++i) {
    const FieldReader message((*list)[i], fmt::format("messages[{}]", i));
    messages.push_back(openai_message(message, body.budget));
  }
  return messages;
}

}  // namespace strata::serve
