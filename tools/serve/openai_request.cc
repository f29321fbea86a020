#include <array>
#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "engine/grammar/json_grammar.h"
#include "tools/serve/request_shapes.h"

namespace strata::serve {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kTokensMax = int64_t{1} << 40;
constexpr double kTemperatureMax = 100;
constexpr double kPenaltyMax = 2;  // OpenAI's range, as are those of bias and logprobs
constexpr double kBiasMax = 100;
constexpr int64_t kLogprobsMax = 20;

constexpr auto kNotImplemented = std::to_array<NeutralField>({
    {"n", "1"},
    {"best_of", "1"},
    {"functions", "[]"},
    {"function_call", "\"none\""},
    {"modalities", "[\"text\"]"},
    {"audio", "null"},
    {"web_search_options", "null"},
    {"suffix", "\"\""},
    {"verbosity", "\"medium\""},
    // Those of llama.cpp and vLLM.
    {"chat_template", "\"\""},
    {"grammar", "\"\""},
    {"json_schema", "{}"},
    {"guided_json", "null"},
    {"guided_regex", "null"},
    {"guided_choice", "null"},
    {"guided_grammar", "null"},
    {"structured_outputs", "null"},
    {"samplers", "null"},
    {"lora", "[]"},
    {"n_probs", "0"},
    {"n_indent", "0"},
    {"min_tokens", "0"},
    {"t_max_predict_ms", "0"},
    {"typical_p", "1"},
    {"mirostat", "0"},
    {"dynatemp_range", "0"},
    {"xtc_probability", "0"},
    {"dry_multiplier", "0"},
    {"top_n_sigma", "-1"},
    {"use_beam_search", "false"},
    {"bad_words", "[]"},
    {"stop_token_ids", "[]"},
    {"truncate_prompt_tokens", "null"},
    {"continue_final_message", "false"},
    {"add_generation_prompt", "true"},
});

void read_logit_bias(const FieldReader& body, engine::SamplerOptions& sampler) {
  const ordered_json* biases = body.object("logit_bias");
  if (!biases) return;
  const FieldReader fields(*biases, "logit_bias");
  for (const auto& [key, value] : biases->items()) {
    engine::TokenId token = 0;
    const char* const end = key.data() + key.size();
    const auto [read_to, status] = std::from_chars(key.data(), end, token);
    if (status != std::errc() || read_to != end || token < 0)
      refuse_field(
          "logit_bias",
          fmt::format("logit_bias has the key {}; wanted a token's id", shown(ordered_json(key))),
          "Name tokens by their numbers.");
    const auto bias = fields.number(key, -kBiasMax, kBiasMax);
    if (!bias) fields.refuse(key, "a number");
    sampler.logit_bias.emplace_back(token, *bias);
  }
}

void read_sampler(const FieldReader& body, AnswerOrder& order) {
  engine::SamplerOptions& sampler = order.sampler;
  const auto set = [&](const char* name, double least, double most, double& out) {
    if (const auto value = body.number(name, least, most)) out = *value;
  };
  set("temperature", 0, kTemperatureMax, sampler.temperature);
  set("top_p", 0, 1, sampler.top_p);
  set("min_p", 0, 1, sampler.min_p);
  set("presence_penalty", -kPenaltyMax, kPenaltyMax, sampler.presence_penalty);
  set("frequency_penalty", -kPenaltyMax, kPenaltyMax, sampler.frequency_penalty);
  // llama.cpp's name, then vLLM's.
  for (const char* const name : {"repeat_penalty", "repetition_penalty"}) {
    set(name, 0, kTemperatureMax, sampler.repeat_penalty);
    if (sampler.repeat_penalty <= 0) body.refuse(name, "a number above 0");
  }
  if (const auto k = body.integer("top_k", -1, UINT32_MAX))
    sampler.top_k = *k < 0 ? 0 : static_cast<uint32_t>(*k);
  if (const auto n = body.integer("repeat_last_n", -1, UINT32_MAX))
    sampler.repeat_last_n = *n < 0 ? UINT32_MAX : static_cast<uint32_t>(*n);
  // -1 is llama.cpp's word for a drawn one, which is what the defaults hold.
  if (const auto seed = body.integer("seed", INT64_MIN, INT64_MAX); seed && *seed != -1)
    sampler.seed = static_cast<uint64_t>(*seed);
  read_logit_bias(body, sampler);
  order.ignore_eos = body.flag("ignore_eos").value_or(false);
}

void read_length(const FieldReader& body, AnswerOrder& order) {
  // The later name wins: a client that sends several sends the older ones for older servers.
  for (const char* const name : {"n_predict", "max_tokens", "max_completion_tokens"}) {
    const auto n = body.integer(name, -1, kTokensMax);
    if (n) order.n_predict = *n < 0 ? UINT64_MAX : static_cast<uint64_t>(*n);
  }
}

void read_streaming(const FieldReader& body, ApiRequest& request) {
  request.is_streamed = body.flag("stream").value_or(false);
  request.returns_progress = body.flag("return_progress").value_or(false);
  (void)body.flag("cache_prompt");  // prompts always are
  const ordered_json* options = body.object("stream_options");
  if (!options) return;
  if (!request.is_streamed) body.refuse("stream_options", "stream to be true with it");
  const FieldReader fields(*options, "stream_options");
  request.includes_usage = fields.flag("include_usage").value_or(false);
}

/// The schema that a response_format asks for; null = any text.
ordered_json answer_schema(const FieldReader& format) {
  const std::string type = format.required_text("type");
  if (type == "text") return nullptr;
  if (type == "json_schema") {
    const ordered_json* named = format.object("json_schema");
    if (!named) format.refuse("json_schema", "an object with a schema");
    const FieldReader fields(*named, format.path_of("json_schema"));
    const ordered_json* schema = fields.object("schema");
    if (!schema) fields.refuse("schema", "an object");
    return *schema;
  }
  if (type != "json_object") format.refuse("type", "text, json_object or json_schema");
  const ordered_json* schema = format.object("schema");  // llama.cpp's
  return schema ? *schema : ordered_json{{"type", "object"}};
}

void read_response_format(const FieldReader& body, AnswerOrder& order) {
  const ordered_json* format = body.object("response_format");
  if (!format) return;
  order.answer_schema = answer_schema(FieldReader(*format, "response_format"));
  if (order.answer_schema.is_null()) return;
  if (order.ignore_eos) body.refuse("ignore_eos", "false with a response_format of JSON");
  try {
    (void)engine::compile_json_schema(order.answer_schema);
  } catch (const Error& error) {
    throw Error(error.code(), error.what(), "response_format", error.remedy());
  }
}

/// The tool that tool_choice names, "" for any; nothing where none is forced.
std::optional<std::string> forced_call(const FieldReader& body, const ordered_json& choice) {
  if (choice == "auto" || choice == "none") return std::nullopt;
  if (choice == "required") return "";
  if (!choice.is_object())
    body.refuse("tool_choice", "\"auto\", \"none\", \"required\" or a function of the tools");
  const FieldReader fields(choice, "tool_choice");
  if (fields.required_text("type") != "function") fields.refuse("type", "\"function\"");
  const ordered_json* function = fields.object("function");
  if (!function) fields.refuse("function", "an object");
  return FieldReader(*function, fields.path_of("function")).required_text("name");
}

void read_tools(const FieldReader& body, ApiRequest& request) {
  AnswerOrder& order = request.order;
  const ordered_json* tools = body.array("tools");
  ordered_json list = ordered_json::array();
  for (size_t i = 0; tools && i < tools->size(); ++i) {
    const FieldReader tool((*tools)[i], fmt::format("tools[{}]", i));
    if (tool.required_text("type") != "function") tool.refuse("type", "\"function\"");
    const ordered_json* function = tool.object("function");
    if (!function) tool.refuse("function", "an object");
    list.push_back(function_tool(FieldReader(*function, tool.path_of("function")), "parameters"));
  }
  bool takes_tools = !list.empty();
  if (const ordered_json* choice = body.find("tool_choice")) {
    request.forced_call = forced_call(body, *choice);
    if (*choice == "none") takes_tools = false;
  }
  if (!takes_tools) return;
  if (!order.answer_schema.is_null())
    body.refuse("tools", "none with a response_format of JSON, in which no call can be written");
  order.tools = std::move(list);
}

void read_template_values(const FieldReader& body, AnswerOrder& order) {
  // The rest of what a template reads is the server's to say.
  constexpr std::array<std::string_view, 5> kOwn = {"messages", "tools", "add_generation_prompt",
                                                    "bos_token", "eos_token"};
  if (const ordered_json* values = body.object("chat_template_kwargs")) {
    for (const std::string_view name : kOwn)
      if (values->contains(name))
        refuse_field(
            fmt::format("chat_template_kwargs.{}", name),
            fmt::format("chat_template_kwargs sets {}, which the request has itself", name),
            fmt::format("Leave {} out.", name));
    order.template_values = *values;
  }
  if (auto effort = body.text("reasoning_effort"))
    order.template_values["reasoning_effort"] = *std::move(effort);
}

void read_chat_logprobs(const FieldReader& body, AnswerOrder& order) {
  const bool wants = body.flag("logprobs").value_or(false);
  const auto n = body.integer("top_logprobs", 0, kLogprobsMax);
  if (n.value_or(0) > 0 && !wants) body.refuse("top_logprobs", "logprobs to be true with it");
  if (wants) order.n_logprobs = static_cast<uint32_t>(n.value_or(0));
}

void read_prompt(const FieldReader& body, AnswerOrder& order) {
  const char* const wanted = "a string that is not empty, or an array of tokens' ids";
  const ordered_json* prompt = body.find("prompt");
  if (!prompt) body.refuse("prompt", wanted);
  if (prompt->is_array() && prompt->size() == 1 && !(*prompt)[0].is_number())
    prompt = &(*prompt)[0];
  if (prompt->is_string()) {
    order.text = prompt->get<std::string>();
    if (order.text.empty()) body.refuse("prompt", wanted);
    return;
  }
  if (!prompt->is_array() || prompt->empty()) body.refuse("prompt", wanted);
  for (const ordered_json& token : *prompt) {
    if (!token.is_number_integer() || token < 0 || token > INT32_MAX)
      body.refuse("prompt", std::string(wanted) + "; several prompts at once are not implemented");
    order.tokens.push_back(token.get<engine::TokenId>());
  }
}

void read_completion(const FieldReader& body, ApiRequest& request) {
  AnswerOrder& order = request.order;
  read_prompt(body, order);
  request.echoes = body.flag("echo").value_or(false);
  if (request.echoes && !order.tokens.empty())
    body.refuse("echo", "false where the prompt is tokens");
  if (const auto n = body.integer("logprobs", 0, kLogprobsMax)) {
    if (request.echoes) body.refuse("logprobs", "none with echo: a prompt's are not computed");
    order.n_logprobs = static_cast<uint32_t>(*n);
  }
}

}  // namespace

void read_openai_request(RequestBody& body, ApiRequest& request) {
  const FieldReader& fields = body.fields;
  refuse_unimplemented(fields, kNotImplemented);
  request.model = fields.text("model").value_or("");
  read_sampler(fields, request.order);
  read_length(fields, request.order);
  read_stop(fields, "stop", request.order.stop);
  read_streaming(fields, request);
  read_response_format(fields, request.order);
  if (request.shape == ApiShape::kCompletion) return read_completion(fields, request);
  request.order.messages = openai_messages(body);
  read_tools(fields, request);
  request.has_one_call = !fields.flag("parallel_tool_calls").value_or(true);
  read_template_values(fields, request.order);
  read_chat_logprobs(fields, request.order);
}

}  // namespace strata::serve
