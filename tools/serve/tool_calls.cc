#include "tools/serve/tool_calls.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "tools/serve/json_body.h"
#include "tools/serve/tagged_call.h"

namespace strata::serve {
namespace {

using nlohmann::ordered_json;

constexpr size_t kCallBytesMax = size_t{1} << 20;  // longer ones are text
constexpr size_t kHeldSpacesMax = 64;              // of white space that may stand before a call
constexpr size_t kNameBytesMax = 64;               // of one that stands before its arguments
constexpr std::string_view kArgs = "[ARGS]";       // between the two

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

bool is_name_byte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '-' || c == '.';
}

size_t after_spaces(std::string_view text, size_t at) {
  while (at < text.size() && is_space(text[at])) ++at;
  return at;
}

/// How much of the end of `text` is the beginning of `marker`, but not all of it.
size_t begun_marker(std::string_view text, std::string_view marker) {
  for (size_t n = std::min(text.size(), marker.size() - 1); n > 0; --n)
    if (text.ends_with(marker.substr(0, n))) return n;
  return 0;
}

/// Finds where an object or array ends, byte by byte.
class JsonEnd {
 public:
  /// True with the byte that closes it.
  bool push(char c) {
    if (is_escaped_) {
      is_escaped_ = false;
    } else if (in_string_) {
      if (c == '\\') is_escaped_ = true;
      if (c == '"') in_string_ = false;
    } else if (c == '"') {
      in_string_ = true;
    } else if (c == '{' || c == '[') {
      ++depth_;
    } else if (c == '}' || c == ']') {
      return --depth_ == 0;
    }
    return false;
  }

 private:
  int64_t depth_ = 0;
  bool in_string_ = false, is_escaped_ = false;
};

/// Errors: kUsage (not what a call looks like).
ToolCall call_of(const ordered_json& value, JsonBudget& budget) {
  const FieldReader fields(value, "call");
  ToolCall call;
  call.name = fields.required_text("name");
  const ordered_json* arguments = fields.find("arguments");
  if (!arguments) arguments = fields.find("parameters");
  if (!arguments) {
    call.arguments = "{}";
  } else if (arguments->is_object()) {
    call.arguments = arguments->dump();
  } else if (arguments->is_string()) {
    call.arguments = parse_object(arguments->get_ref<const std::string&>(), budget).dump();
  } else {
    fields.refuse("arguments", "an object");
  }
  return call;
}

/// The calls of a JSON text, or none where it is not JSON of calls.
std::vector<AnswerPiece> calls_of(std::string_view json) {
  std::vector<AnswerPiece> calls;
  JsonBudget budget;
  try {
    if (json.starts_with('{')) {
      calls.push_back({"", call_of(parse_object(json, budget), budget)});
      return calls;
    }
    const ordered_json list =
        parse_object("{\"calls\":" + std::string(json) + "}", budget)["calls"];
    for (const ordered_json& one : list) calls.push_back({"", call_of(one, budget)});
  } catch (const Error&) {
    calls.clear();
  }
  return calls;
}

/// The call of a name with its arguments, or none where those are no object.
std::vector<AnswerPiece> named_call(const std::string& name, std::string_view json) {
  JsonBudget budget;
  try {
    return {{"", ToolCall{name, parse_object(json, budget).dump()}}};
  } catch (const Error&) {
    return {};
  }
}

std::string_view begin_marker(ToolCallStyle style) {
  switch (style) {
    case ToolCallStyle::kLlama:
      return "<|python_tag|>";
    case ToolCallStyle::kHermes:
    case ToolCallStyle::kQwenCoder:
      return "<tool_call>";
    case ToolCallStyle::kMistral:
    case ToolCallStyle::kMistralArgs:
      return "[TOOL_CALLS]";
    case ToolCallStyle::kNone:
      break;
  }
  return {};
}

std::string_view end_marker(ToolCallStyle style) {
  if (style == ToolCallStyle::kHermes || style == ToolCallStyle::kQwenCoder) return "</tool_call>";
  return style == ToolCallStyle::kLlama ? ";" : "";
}

}  // namespace

ToolCallStyle tool_call_style(std::string_view chat_template) {
  const auto has = [&](std::string_view text) {
    return chat_template.find(text) != std::string_view::npos;
  };
  // With [CALL_ID] a name and its call's id would stand side by side, their marker left out.
  if (has("[TOOL_CALLS]") && has("[CALL_ID]")) return ToolCallStyle::kNone;
  if (has("[TOOL_CALLS]"))
    return has("[ARGS]") ? ToolCallStyle::kMistralArgs : ToolCallStyle::kMistral;
  // Others put calls of their own, which are no JSON, into the same marker.
  if (has("<tool_call>") && has("<arg_key>")) return ToolCallStyle::kNone;
  if (has("<tool_call>"))
    return has("<function=") ? ToolCallStyle::kQwenCoder : ToolCallStyle::kHermes;
  if (has("<|python_tag|>") || (has("ipython") && has("\"parameters\"")))
    return ToolCallStyle::kLlama;
  return ToolCallStyle::kNone;
}

struct ToolCallReader::State {
  enum class Phase : uint8_t { kText, kBeforeCall, kName, kJson, kTagged, kAfterCall };

  ToolCallStyle style;
  ordered_json tools;
  Phase phase = Phase::kText;
  std::string held;  // a call begins with it, or may begin in it
  size_t at = 0;     // of `held`: what stands before was looked at in this phase
  size_t call_begin = 0;
  std::string name;  // that stands before the JSON
  JsonEnd json_end;
  TaggedCall tagged;
  bool is_marked = false;  // the call has its marker, which makes it one
  bool is_start = true;  // of the answer, or behind a call: a call may stand here without a marker
  bool is_after_call = false;  // no text since
  std::vector<AnswerPiece> out;

  void give(size_t n) {
    if (n > 0 && (out.empty() || out.back().call)) out.push_back({});
    if (n > 0) out.back().text += std::string_view(held).substr(0, n);
    held.erase(0, n);
    at = 0;
    if (n > 0) is_start = is_after_call = false;
  }

  // Each step says whether the next phase may be tried at once: false = more text is needed.
  bool step(bool is_end);
  bool step_text(bool is_end);
  bool step_start(bool is_end);
  bool step_before_call();
  bool step_name();
  bool step_json();
  bool step_tagged();
  bool take(std::vector<AnswerPiece> calls);
  bool step_after_call(bool is_end);
  bool fail();

  /// Whether it is the name of one of the tools, where these are known.
  bool is_tool(const std::string& of) const {
    return tools.is_null() || std::ranges::any_of(tools, [&](const ordered_json& tool) {
             return tool["function"]["name"] == of;
           });
  }
};

bool ToolCallReader::State::step(bool is_end) {
  bool goes_on = false;
  switch (phase) {
    case Phase::kText:
      return is_start ? step_start(is_end) : step_text(is_end);
    case Phase::kAfterCall:
      return step_after_call(is_end);
    case Phase::kBeforeCall:
      goes_on = step_before_call();
      break;
    case Phase::kName:
      goes_on = step_name();
      break;
    case Phase::kJson:
      goes_on = step_json();
      break;
    case Phase::kTagged:
      goes_on = step_tagged();
      break;
  }
  return goes_on || (is_end && phase != Phase::kText && fail());
}

/// What was taken for a call is text, up to where it was looked at.
bool ToolCallReader::State::fail() {
  give(at);
  phase = Phase::kText;
  return !held.empty();
}

/// Where a call needs no marker: what begins like one is taken for one.
bool ToolCallReader::State::step_start(bool is_end) {
  const std::string_view text = held;
  const size_t begin = after_spaces(text, 0);
  if (begin == text.size() && begin <= kHeldSpacesMax && !is_end) return false;
  const bool is_llama = style == ToolCallStyle::kLlama;
  const bool is_mistral = style == ToolCallStyle::kMistral;
  const bool has_name =
      style == ToolCallStyle::kMistralArgs && begin < text.size() && is_name_byte(text[begin]);
  if (has_name || (is_llama && text.substr(begin).starts_with('{'))) {
    is_marked = false;
    phase = Phase::kBeforeCall;
    at = begin;
    return true;
  }
  if (is_mistral && text.substr(begin).starts_with('[')) {
    const size_t second = after_spaces(text, begin + 1);
    if (second == text.size() && second - begin <= kHeldSpacesMax && !is_end) return false;
    if (second < text.size() && text[second] == '{') {
      phase = Phase::kBeforeCall;
      at = begin;
      return true;
    }
  }
  return step_text(is_end);
}

bool ToolCallReader::State::step_text(bool is_end) {
  const std::string_view marker = begin_marker(style);
  const std::string_view text = held;
  const size_t found = text.find(marker);
  size_t kept = is_end ? text.size() : text.size() - begun_marker(text, marker);
  if (found != std::string_view::npos) kept = found;
  size_t n = kept;
  if (is_end && is_after_call && after_spaces(text, 0) == text.size()) {
    held.clear();  // that the model left behind its last call
    return false;
  }
  if (!is_end || found != std::string_view::npos)
    while (n > 0 && kept - n < kHeldSpacesMax && is_space(text[n - 1])) --n;
  give(n);
  if (found == std::string_view::npos) return false;
  at = kept - n + marker.size();
  is_marked = true;
  phase = Phase::kBeforeCall;
  return true;
}

bool ToolCallReader::State::step_before_call() {
  at = after_spaces(held, at);
  if (at > kCallBytesMax) return fail();
  if (at == held.size()) return false;
  call_begin = at;
  if (style == ToolCallStyle::kQwenCoder) {
    tagged = TaggedCall();
    phase = Phase::kTagged;
    return true;
  }
  if (style == ToolCallStyle::kMistralArgs) {
    phase = Phase::kName;
    return true;
  }
  const bool may_be_list = style == ToolCallStyle::kMistral && held[at] == '[';
  if (held[at] != '{' && !may_be_list) return fail();
  json_end = JsonEnd();
  phase = Phase::kJson;
  return true;
}

/// Up to the arguments. The name, which is short, is looked at again while it may go on.
bool ToolCallReader::State::step_name() {
  at = call_begin;
  while (at < held.size() && is_name_byte(held[at]) && at - call_begin < kNameBytesMax) ++at;
  const size_t n_name = at - call_begin;
  const std::string_view rest = std::string_view(held).substr(at);
  const bool has_args = rest.starts_with(kArgs);
  const size_t begin = has_args ? after_spaces(rest, kArgs.size()) : 0;
  if (n_name > 0 && begin < rest.size() && rest[begin] == '{') {
    name = held.substr(call_begin, n_name);
    if (!is_marked && !is_tool(name)) return fail();  // such as Go's interface{}
    at = call_begin = at + begin;
    json_end = JsonEnd();
    phase = Phase::kJson;
    return true;
  }
  const bool waits = has_args && begin == rest.size() && begin <= kHeldSpacesMax;
  if (n_name > 0 && (waits || kArgs.starts_with(rest))) return false;
  return fail();
}

bool ToolCallReader::State::take(std::vector<AnswerPiece> calls) {
  if (calls.empty()) return fail();
  std::ranges::move(calls, std::back_inserter(out));
  held.erase(0, at);
  at = 0;
  is_after_call = true;
  phase = Phase::kAfterCall;
  return true;
}

bool ToolCallReader::State::step_json() {
  while (at < held.size()) {
    if (at - call_begin >= kCallBytesMax) return fail();
    if (!json_end.push(held[at++])) continue;
    const std::string_view json = std::string_view(held).substr(call_begin, at - call_begin);
    return take(style == ToolCallStyle::kMistralArgs ? named_call(name, json) : calls_of(json));
  }
  return false;
}

bool ToolCallReader::State::step_tagged() {
  switch (tagged.look(held, at)) {
    case TaggedCall::State::kOpen:
      return at - call_begin >= kCallBytesMax && fail();
    case TaggedCall::State::kBroken:
      return fail();
    case TaggedCall::State::kWhole:
      break;
  }
  return take({{"", ToolCall{tagged.name(), tagged.arguments(tools)}}});
}

/// What closes a call is dropped where it comes.
bool ToolCallReader::State::step_after_call(bool is_end) {
  const std::string_view marker = end_marker(style);
  const size_t begin = after_spaces(held, 0);
  const std::string_view rest = std::string_view(held).substr(begin);
  const bool is_whole = rest.starts_with(marker);
  if (!is_whole && marker.starts_with(rest) && begin <= kHeldSpacesMax) {
    if (is_end) held.clear();
    return false;
  }
  if (is_whole && !marker.empty()) held.erase(0, begin + marker.size());
  phase = Phase::kText;
  is_start = true;
  at = 0;
  return true;
}

ToolCallReader::ToolCallReader(ToolCallStyle style, ordered_json tools)
    : state_(std::make_unique<State>()) {
  state_->style = style;
  state_->tools = std::move(tools);
}
ToolCallReader::~ToolCallReader() = default;
ToolCallReader::ToolCallReader(ToolCallReader&&) noexcept = default;
ToolCallReader& ToolCallReader::operator=(ToolCallReader&&) noexcept = default;

std::vector<AnswerPiece> ToolCallReader::push(std::string_view text) {
  State& state = *state_;
  state.held += text;
  if (state.style == ToolCallStyle::kNone) {
    state.give(state.held.size());
  } else {
    while (state.step(false)) continue;
  }
  return std::exchange(state.out, {});
}

std::vector<AnswerPiece> ToolCallReader::finish() {
  State& state = *state_;
  if (state.style != ToolCallStyle::kNone)
    while (state.step(true)) continue;
  return std::exchange(state.out, {});
}

}  // namespace strata::serve
