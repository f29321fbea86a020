#include "tools/serve/forced_call.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"
#include "engine/grammar/json_grammar.h"
#include "tools/serve/json_body.h"

namespace strata::serve {
namespace {

using nlohmann::ordered_json;

/// Whether `forced` is a call of this function, maybe beside others.
bool is_bound(const std::string& forced, const ordered_json& function) {
  return forced.empty() || function["name"] == forced;
}

/// Arguments are an object, also where the schema is `{}`, which takes any value. References in
/// them begin at them, wherever they stand: so they have an $id.
ordered_json parameters_of(const ordered_json& function) {
  ordered_json parameters = function["parameters"];
  if (parameters.empty()) return {{"type", "object"}};
  if (parameters.is_object()) parameters["$id"] = "parameters";
  return parameters;
}

/// Whether every value of that node is an object.
bool is_object(const engine::JsonGrammar& grammar, uint32_t idx) {
  using Kind = engine::GrammarNode::Kind;
  const engine::GrammarNode& node = grammar.nodes[idx];
  if (node.kind == Kind::kLiteral) return node.text.starts_with('{');
  if (node.kind == Kind::kAnyOf)
    return std::ranges::all_of(node.nodes, [&](uint32_t of) { return is_object(grammar, of); });
  return node.kind == Kind::kObject || node.kind == Kind::kMap;
}

void check_parameters(const ordered_json& function) {
  const engine::JsonGrammar grammar = engine::compile_json_schema(parameters_of(function));
  if (is_object(grammar, grammar.nodes[grammar.root].nodes[0])) return;
  throw Error(ErrorCode::kUsage,
              fmt::format("the parameters of {} may be no object", shown(function["name"])),
              "tools", "Give them the type \"object\".");
}

/// {"name": "f", "arguments": {...}} of a tool, as the family writes it.
ordered_json call_schema(const ordered_json& function, ToolCallStyle style) {
  const char* const arguments = style == ToolCallStyle::kLlama ? "parameters" : "arguments";
  return {{"type", "object"},
          {"properties",
           {{"name", {{"const", function["name"]}}}, {arguments, parameters_of(function)}}},
          {"required", {"name", arguments}}};
}

/// Any one of the tools, or the one of that name.
ordered_json calls_schema(const ordered_json& tools, const std::string& forced,
                          ToolCallStyle style) {
  ordered_json any = ordered_json::array();
  for (const ordered_json& tool : tools) {
    const ordered_json& function = tool["function"];
    if (is_bound(forced, function)) any.push_back(call_schema(function, style));
  }
  if (any.empty())
    refuse_field("tool_choice",
                 fmt::format("tool_choice names {}, which is none of the tools",
                             shown(ordered_json(forced))),
                 "Name one of them.");
  ordered_json schema = any.size() == 1 ? any[0] : ordered_json{{"anyOf", std::move(any)}};
  if (style != ToolCallStyle::kMistral) return schema;
  return {{"type", "array"}, {"items", std::move(schema)}, {"minItems", 1}, {"maxItems", 1}};
}

}  // namespace

ToolCallStyle bind_forced_call(ApiRequest& request, ToolCallStyle style) {
  if (!request.forced_call) return style;
  // An answer is bound to JSON alone: what is none, these families write as older ones did.
  if (style == ToolCallStyle::kQwenCoder) style = ToolCallStyle::kHermes;
  if (style == ToolCallStyle::kMistralArgs) style = ToolCallStyle::kMistral;
  const std::string& forced = *request.forced_call;
  AnswerOrder& order = request.order;
  if (order.tools.is_null())
    refuse_field("tool_choice", "tool_choice forces a call, and there are no tools",
                 "Give tools, or leave tool_choice out.");
  if (style == ToolCallStyle::kNone)
    refuse_field("tool_choice",
                 "tool_choice forces a call, and how this model writes calls is not known here",
                 "Use \"auto\" or \"none\".");
  if (order.ignore_eos)
    refuse_field("ignore_eos", "ignore_eos is true; wanted false with a call that is forced",
                 "Leave it out.");
  order.answer_schema = calls_schema(order.tools, forced, style);
  try {
    (void)engine::compile_json_schema(order.answer_schema);
    for (const ordered_json& tool : order.tools)
      if (is_bound(forced, tool["function"])) check_parameters(tool["function"]);
  } catch (const Error& error) {
    throw Error(error.code(),
                fmt::format("a call of these tools cannot be forced: {}", error.what()), "tools",
                error.remedy());
  }
  if (style == ToolCallStyle::kHermes) order.answer_begin = "<tool_call>\n";
  if (style == ToolCallStyle::kMistral) order.answer_begin = "[TOOL_CALLS]";
  // What the answer holds stands behind the marker, as Llama's calls do and Mistral's lists may.
  return style == ToolCallStyle::kMistral ? style : ToolCallStyle::kLlama;
}

}  // namespace strata::serve
