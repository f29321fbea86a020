#include <array>
#include <cstdint>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "tools/serve/request_shapes.h"

namespace strata::serve {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kTokensMax = int64_t{1} << 40;

constexpr auto kNotImplemented = std::to_array<NeutralField>({
    {"mcp_servers", "[]"},
    {"container", "null"},
    {"output_format", "null"},
});

constexpr auto kNotImplementedOutput = std::to_array<NeutralField>({{"format", "null"}});

/// The blocks of one message, sorted by what becomes of them.
struct Blocks {
  std::string text;
  bool has_text = false;
  std::string reasoning;
  ordered_json tool_calls = ordered_json::array();
  std::vector<engine::ChatMessage> tool_results;

  void add_text(const std::string& more) {
    if (has_text) text += '\n';
    text += more;
    has_text = true;
  }
};

void read_block(const FieldReader& block, const std::string& where, const std::string& role,
                Blocks& out) {
  const std::string type = block.required_text("type");
  const bool is_user = role == "user";
  if (!is_user && type == "tool_use") {
    const ordered_json* input = block.object("input");
    ordered_json call = {{"id", block.required_text("id")}, {"type", "function"}};
    call["function"] = {{"name", block.required_text("name")},
                        {"arguments", input ? *input : ordered_json::object()}};
    out.tool_calls.push_back(std::move(call));
  } else if (!is_user && type == "thinking") {
    out.reasoning += block.text("thinking").value_or("");
  } else if (is_user && type == "tool_result") {
    out.tool_results.push_back(message_of("tool", content_text(block).value_or(""),
                                          {{"tool_call_id", block.required_text("tool_use_id")}}));
  } else {
    out.add_text(part_text(block, where));
  }
}

/// A message of Anthropic's holds what takes several of a template's: results of tools come first.
void add_message(const FieldReader& message, std::vector<engine::ChatMessage>& out) {
  const std::string role = message.text("role").value_or("");
  if (role != "user" && role != "assistant") message.refuse("role", "user or assistant");
  const ordered_json* content = message.find("content");
  if (!content || !content->is_array()) {
    auto text = content_text(message);
    if (!text) message.refuse("content", "a string or an array of blocks");
    out.push_back({role, *std::move(text)});
    return;
  }
  Blocks blocks;
  for (size_t i = 0; i < content->size(); ++i) {
    const std::string where = fmt::format("{}[{}]", message.path_of("content"), i);
    read_block(FieldReader((*content)[i], where), where, role, blocks);
  }
  const bool has_results = !blocks.tool_results.empty();
  for (engine::ChatMessage& result : blocks.tool_results) out.push_back(std::move(result));
  if (has_results && !blocks.has_text) return;
  ordered_json fields = ordered_json::object();
  if (!blocks.tool_calls.empty()) fields["tool_calls"] = std::move(blocks.tool_calls);
  if (!blocks.reasoning.empty()) fields["reasoning_content"] = std::move(blocks.reasoning);
  out.push_back(message_of(role, std::move(blocks.text), std::move(fields)));
}

void add_system(const FieldReader& body, std::vector<engine::ChatMessage>& out) {
  const ordered_json* system = body.find("system");
  if (!system) return;
  const ordered_json as_content = {{"content", *system}};
  if (!system->is_string() && !system->is_array())
    body.refuse("system", "a string or an array of text blocks");
  auto text = content_text(FieldReader(as_content, "system"));
  if (text && !text->empty()) out.push_back({"system", *std::move(text)});
}

void read_tools(const FieldReader& body, ApiRequest& request) {
  const ordered_json* tools = body.array("tools");
  ordered_json list = ordered_json::array();
  for (size_t i = 0; tools && i < tools->size(); ++i) {
    const FieldReader tool((*tools)[i], fmt::format("tools[{}]", i));
    if (tool.text("type").value_or("custom") != "custom")
      tool.refuse("type", "\"custom\"; the server has no tools of its own");
    list.push_back(function_tool(tool, "input_schema"));
  }
  bool takes_tools = !list.empty();
  if (const ordered_json* choice = body.object("tool_choice")) {
    const FieldReader fields(*choice, "tool_choice");
    const std::string type = fields.required_text("type");
    if (type != "auto" && type != "none" && type != "any" && type != "tool")
      fields.refuse("type", "auto, none, any or tool");
    if (type == "any") request.forced_call = "";
    if (type == "tool") request.forced_call = fields.required_text("name");
    request.has_one_call = fields.flag("disable_parallel_tool_use").value_or(false);
    takes_tools = takes_tools && type != "none";
  }
  if (takes_tools) request.order.tools = std::move(list);
}

/// Whether the model thinks aloud, and how much, as far as its template asks: names of variables
/// are those of Qwen's templates, of DeepSeek's and Granite's, and of gpt-oss's. A template that
/// asks for none of them, and a budget of thoughts, which none asks for, change nothing.
void read_thinking(const FieldReader& body, AnswerOrder& order) {
  if (const ordered_json* thinking = body.object("thinking")) {
    const FieldReader fields(*thinking, "thinking");
    const std::string type = fields.required_text("type");
    if (type != "enabled" && type != "disabled" && type != "adaptive")
      fields.refuse("type", "enabled, disabled or adaptive");
    if (type != "adaptive")  // which leaves it to the model
      for (const char* const variable : {"enable_thinking", "thinking"})
        order.template_values[variable] = type == "enabled";
  }
  const ordered_json* config = body.object("output_config");
  if (!config) return;
  const FieldReader fields(*config, "output_config");
  refuse_unimplemented(fields, kNotImplementedOutput);
  if (auto effort = fields.text("effort"))
    order.template_values["reasoning_effort"] = *std::move(effort);
}

}  // namespace

std::vector<engine::ChatMessage> anthropic_messages(const FieldReader& body) {
  const ordered_json* list = body.array("messages");
  if (!list || list->empty()) body.refuse("messages", "an array of at least one message");
  std::vector<engine::ChatMessage> messages;
  add_system(body, messages);
  for (size_t i = 0; i < list->size(); ++i)
    add_message(FieldReader((*list)[i], fmt::format("messages[{}]", i)), messages);
  // It asks for the rest of its own words, which a template cannot leave open.
  if (messages.back().role == "assistant")
    refuse_field(fmt::format("messages[{}].role", list->size() - 1),
                 "the last message is the assistant's; that an answer goes on from it is not "
                 "implemented",
                 "End with a message of the user.");
  return messages;
}

void read_anthropic_request(RequestBody& body, ApiRequest& request) {
  const FieldReader& fields = body.fields;
  AnswerOrder& order = request.order;
  refuse_unimplemented(fields, kNotImplemented);
  request.model = fields.text("model").value_or("");
  const auto n = fields.integer("max_tokens", 1, kTokensMax);
  if (!n) fields.refuse("max_tokens", "the most tokens of the answer");
  order.n_predict = static_cast<uint64_t>(*n);
  engine::SamplerOptions& sampler = order.sampler;
  sampler.temperature = fields.number("temperature", 0, 1).value_or(sampler.temperature);
  sampler.top_p = fields.number("top_p", 0, 1).value_or(sampler.top_p);
  if (const auto k = fields.integer("top_k", 0, UINT32_MAX))
    sampler.top_k = static_cast<uint32_t>(*k);
  read_stop(fields, "stop_sequences", order.stop);
  request.is_streamed = fields.flag("stream").value_or(false);
  order.messages = anthropic_messages(fields);
  read_tools(fields, request);
  read_thinking(fields, order);
  // What to leave out of texts that get too long: here they are kept whole.
  (void)fields.object("context_management");
}

}  // namespace strata::serve
