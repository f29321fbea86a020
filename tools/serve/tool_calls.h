// tools/serve/tool_calls.h - calls of tools in a model's answer: each family of templates has
// its own way to write them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace strata::serve {

/// How a model writes the calls that it wants made. Markers that are control tokens (Llama's and
/// Mistral's) are no part of an answer's text, so these styles are known without them at its
/// start.
enum class ToolCallStyle : uint8_t {
  kNone,       // its template knows no tools, or a way that is not known here
  kLlama,      // the answer begins with {"name": ..., "parameters": {...}}; more after ';', spaces
  kHermes,     // <tool_call>{"name": ..., "arguments": {...}}</tool_call>, also Qwen's
  kQwenCoder,  // <tool_call> around a tagged call (tagged_call.h) </tool_call>
  kMistral,    // [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]
  kMistralArgs,  // [TOOL_CALLS]NAME[ARGS]{...}, more behind it; Mistral since summer 2025
};

/// Told from the source text of the model's chat template.
ToolCallStyle tool_call_style(std::string_view chat_template);

struct ToolCall {
  std::string name;
  std::string arguments;  // JSON text of an object
};

/// Of an answer, in its order: text or a call.
struct AnswerPiece {
  std::string text;
  std::optional<ToolCall> call;
};

/// Finds the calls in the text of one answer, however it is cut. Text is held back while it may
/// begin a call, white space before one included; what looks like a call and is none comes back as
/// text. With kNone all text comes back at once. At most a MiB is held.
class ToolCallReader {
 public:
  /// `tools`, as templates read them, say which values are texts where calls do not, and which
  /// names make a call where its marker is not shown; null = nothing is known of them.
  explicit ToolCallReader(ToolCallStyle style, nlohmann::ordered_json tools = nullptr);
  ~ToolCallReader();
  ToolCallReader(ToolCallReader&&) noexcept;
  ToolCallReader& operator=(ToolCallReader&&) noexcept;

  std::vector<AnswerPiece> push(std::string_view text);
  /// The answer is over: what was held back.
  std::vector<AnswerPiece> finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace strata::serve
