#include "tools/serve/request_shapes.h"

#include <utility>

#include <fmt/format.h>

namespace strata::serve {
namespace {

using nlohmann::ordered_json;

// Stop texts are matched all at once by a table that has a state for each of their bytes.
constexpr size_t kStopsMax = 64;
constexpr size_t kStopBytesMax = 1024;

}  // namespace

std::string part_text(const FieldReader& part, const std::string& where) {
  const std::string type = part.required_text("type");
  if (type == "text" || type == "input_text") {
    auto text = part.text("text");
    if (!text) part.refuse("text", "a string");
    return *std::move(text);
  }
  if (type == "refusal") return part.text("refusal").value_or("");
  refuse_field(where, fmt::format("{} is of type {}; wanted text", where, shown(type)),
               "Send text: images, audio and files are not read.");
}

std::optional<std::string> content_text(const FieldReader& message) {
  const ordered_json* content = message.find("content");
  if (!content) return std::nullopt;
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) message.refuse("content", "a string or an array of text parts");
  std::string text;
  for (size_t i = 0; i < content->size(); ++i) {
    const std::string where = fmt::format("{}[{}]", message.path_of("content"), i);
    if (i > 0) text += '\n';
    text += part_text(FieldReader((*content)[i], where), where);
  }
  return text;
}

void refuse_unimplemented(const FieldReader& body, std::span<const NeutralField> fields) {
  for (const NeutralField& field : fields) {
    const ordered_json* value = body.find(field.name);
    if (!value || *value == ordered_json::parse(field.neutral)) continue;
    refuse_field(
        body.path_of(field.name),
        fmt::format("{} is {}, which is not implemented", body.path_of(field.name), shown(*value)),
        fmt::format("Leave {} out.", body.path_of(field.name)));
  }
}

void read_stop(const FieldReader& body, const char* name, std::vector<std::string>& out) {
  const ordered_json* stop = body.find(name);
  if (!stop) return;
  const auto refuse = [&] {
    body.refuse(name, fmt::format("a string of 1 to {} bytes, or up to {} of them", kStopBytesMax,
                                  kStopsMax));
  };
  const auto add = [&](const ordered_json& text) {
    if (!text.is_string() || out.size() == kStopsMax) refuse();
    const auto& stop_text = text.get_ref<const std::string&>();
    if (stop_text.empty() || stop_text.size() > kStopBytesMax) refuse();
    out.push_back(stop_text);
  };
  if (!stop->is_array()) return add(*stop);
  for (const ordered_json& text : *stop) add(text);
}

ordered_json function_tool(const FieldReader& tool, const char* schema_key) {
  ordered_json function = {{"name", tool.required_text("name")}};
  if (auto description = tool.text("description"))
    function["description"] = *std::move(description);
  const ordered_json* schema = tool.object(schema_key);
  // Templates print the schema without asking whether there is one.
  function["parameters"] =
      schema ? *schema : ordered_json{{"type", "object"}, {"properties", ordered_json::object()}};
  return {{"type", "function"}, {"function", std::move(function)}};
}

engine::ChatMessage message_of(std::string role, std::string content, ordered_json fields) {
  engine::ChatMessage message{std::move(role), std::move(content)};
  if (!fields.empty()) message.fields = std::make_shared<const ordered_json>(std::move(fields));
  return message;
}

}  // namespace strata::serve
